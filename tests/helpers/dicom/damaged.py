"""DICOM files whose structure contradicts the standard, made byte by byte."""

from __future__ import annotations

import struct

from pydicom.dataset import Dataset

from helpers.dicom.dicom_images import encoded

ITEM, ITEM_END, SEQUENCE_END = b"\xfe\xff\0\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"
PIXEL_DATA = 0x7FE00010
UNDEFINED = 0xFFFFFFFF

DELIMITER = SEQUENCE_END + bytes(4)


def tag_bytes(tag: int) -> bytes:
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF)


def even(data: bytes) -> bytes:
    return data + bytes(len(data) % 2)


def item(data: bytes, length: int | None = None) -> bytes:
    """Return a fragment or an item, whose length may be told wrongly."""
    return ITEM + struct.pack("<I", len(data) if length is None else length) + data


def open_item(data: bytes) -> bytes:
    """Return an item of undefined length."""
    return item(data, UNDEFINED) + ITEM_END + bytes(4)


def element(tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    """Return an element, explicit little endian."""
    value = even(value)
    told = len(value) if length is None else length
    is_long = vr in ("OB", "OW", "SQ", "UN")
    head = b"\0\0" + struct.pack("<I", told) if is_long else struct.pack("<H", told)
    return tag_bytes(tag) + vr.encode() + head + value


def sequence(tag: int, items: bytes, wrong: int = 0) -> bytes:
    """Return a sequence of defined length, which is told wrongly by some bytes."""
    return element(tag, "SQ", items, len(items) + wrong)


def open_sequence(tag: int, items: bytes, delimiter: bytes = DELIMITER) -> bytes:
    """Return a sequence of undefined length."""
    return element(tag, "SQ", items, UNDEFINED) + delimiter


def pixel_data(value: bytes, delimiter: bytes = DELIMITER) -> bytes:
    """Return encapsulated Pixel Data, of undefined length."""
    return element(PIXEL_DATA, "OB", value, UNDEFINED) + delimiter


def file_of(dataset: Dataset, image: bytes, before: bytes = b"", early: bytes = b"") -> bytes:
    """Return a file whose Pixel Data is replaced.

    Args:
        dataset: The image.
        image: The element in the place of Pixel Data.
        before: What stands directly before it.
        early: What stands before Patient's Name, and so before all that tells of the image.
    """
    content = encoded(dataset)
    content = content[: content.rindex(tag_bytes(PIXEL_DATA))] + before + image
    at = content.index(tag_bytes(0x00100010))
    return content[:at] + early + content[at:]


def with_syntax(content: bytes, syntax: str) -> bytes:
    """Return a file that names another transfer syntax, and is written as before."""
    at = content.index(b"\x02\0\x10\0UI") + 6
    length = struct.unpack_from("<H", content, at)[0]
    name = even(syntax.encode())
    return content[:at] + struct.pack("<H", len(name)) + name + content[at + 2 + length :]
