"""Reading messages of protobuf, the format that ONNX files are written in, without their classes.

See https://protobuf.dev/programming-guides/encoding/. A message is a series of fields; each has a
number, and an integer or a string of bytes, which may be a message again. What a number means is
told by who reads it.
"""

from __future__ import annotations

Field = int | memoryview
"""An integer as it is written (varint), or bytes: those of a string, a message or a number of fixed
width."""

Message = dict[int, list[Field]]
"""Field number -> values, in the order of the file."""

_BITS = (1 << 64) - 1

_WIDTH = {1: 8, 5: 4}
"""Wire type -> bytes of a number of fixed width."""


def read_message(data: memoryview, most: int) -> Message:
    """Read the fields of one message; those of the messages in it are left as bytes.

    Args:
        data: The message. What is returned refers to it, and copies nothing.
        most: Most fields that it may have.

    Raises:
        ValueError: It is cut short, or no message, or too long.
    """
    fields: Message = {}
    at, end, count = 0, len(data), 0
    while at < end:
        count += 1
        if count > most:
            raise ValueError(f"more than {most} fields in a message")
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        value: Field
        if kind == 0:
            value, at = _varint(data, at)
        else:
            length, at = _varint(data, at) if kind == 2 else (_WIDTH.get(kind, -1), at)
            if length < 0 or length > end - at:
                raise ValueError("a field that is cut short, or of no known type")
            value = data[at : at + length]
            at += length
        if number in fields:
            fields[number].append(value)
        else:
            fields[number] = [value]
    return fields


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return the integer that begins at `at`, 7 bits a byte, the lowest first, and its end."""
    if at < len(data) and data[at] < 128:
        return data[at], at + 1
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("an integer that is cut short or has more than ten bytes")


def integers(values: list[Field]) -> list[int]:
    """Return the signed 64-bit integers of a repeated field, packed into bytes or not.

    Raises:
        ValueError: They are cut short.
    """
    numbers: list[int] = []
    for value in values:
        if isinstance(value, int):
            numbers.append(value)
            continue
        at = 0
        while at < len(value):
            number, at = _varint(value, at)
            numbers.append(number)
    # Negative ones are written as their two's complement; bits beyond 64 are dropped.
    return [(n & _BITS) - (1 << 64) if n >> 63 & 1 else n & _BITS for n in numbers]


def messages(fields: Message, number: int) -> list[memoryview]:
    """Return the messages, or other bytes, of a repeated field.

    Raises:
        ValueError: It holds numbers.
    """
    values = fields.get(number, [])
    found = [value for value in values if not isinstance(value, int)]
    if len(found) != len(values):
        raise ValueError(f"a number where something else belongs ({number})")
    return found


def texts(fields: Message, number: int) -> list[str]:
    """Return the texts of a repeated field.

    Raises:
        ValueError: It holds something else.
    """
    try:
        return [str(value, "utf-8") for value in messages(fields, number)]
    except UnicodeDecodeError:
        raise ValueError("text that is not UTF-8") from None


def text(fields: Message, number: int) -> str:
    """Return the text of a field, empty where there is none.

    Raises:
        ValueError: It holds something else, or more than one.
    """
    found = texts(fields, number)
    if len(found) > 1:
        raise ValueError(f"two values for one ({number})")
    return found[0] if found else ""


def integer(fields: Message, number: int) -> int:
    """Return the signed integer of a field, 0 where there is none."""
    return next(iter(integers(fields.get(number, []))), 0)
