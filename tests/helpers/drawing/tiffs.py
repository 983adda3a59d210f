"""TIFF files of any number type, which no library of the tests writes."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_RAW, _DEFLATE = 1, 8
_SHORT, _LONG = 3, 4
_FORMATS = {"u": 1, "i": 2, "f": 3, "c": 6}


def tiff(
    pixels: NDArray[Any],
    order: str = "<",
    deflate: bool = False,
    big: bool = False,
    planar: bool = False,
    **tags: int,
) -> bytes:
    """Return a TIFF file of one strip, or of one per channel.

    Args:
        pixels: [H, W] or [H, W, n], integers, floats or complex numbers.
        order: Byte order, ``<`` or ``>``.
        deflate: Compress it.
        big: Write a BigTIFF.
        planar: Store each channel by itself.
        **tags: Further tags with one value: ``photometric``, ``orientation``, ``extra``.
    """
    height, width, samples = (*pixels.shape, 1)[:3]
    stored = pixels.astype(pixels.dtype.newbyteorder(order))
    planes = np.moveaxis(stored, -1, 0) if planar and samples > 1 else stored[None]
    parts = [plane.tobytes() for plane in planes]
    parts = [zlib.compress(part) for part in parts] if deflate else parts
    start = 16 if big else 8
    offsets = [start + sum(map(len, parts[:i])) for i in range(len(parts))]
    entries = {
        **{256: [width], 257: [height], 258: [8 * pixels.itemsize] * samples},
        **{259: [_DEFLATE if deflate else _RAW], 262: [tags.get("photometric", 1)]},
        **{273: offsets, 277: [samples], 278: [height], 279: [*map(len, parts)]},
        **{284: [2 if planar else 1], 339: [_FORMATS[pixels.dtype.kind]] * samples},
    }
    entries |= {274: [tags["orientation"]]} if "orientation" in tags else {}
    entries |= {338: [tags["extra"]]} if "extra" in tags else {}
    data = b"".join(parts)
    return _file(entries, data + b"\0" * (len(data) % 2), order, big)


def _file(entries: dict[int, list[int]], data: bytes, order: str, big: bool) -> bytes:
    word, start = ("Q", 16) if big else ("I", 8)
    room = struct.calcsize(word)
    directory = struct.pack(f"{order}{'Q' if big else 'H'}", len(entries))
    at = start + len(data) + len(directory) + len(entries) * (4 + 2 * room) + room
    values = b""
    for tag, numbers in sorted(entries.items()):
        kind, form = (_LONG, "I") if tag in (273, 279) else (_SHORT, "H")
        value = struct.pack(f"{order}{len(numbers)}{form}", *numbers)
        if len(value) > room:
            values, value = values + value, struct.pack(f"{order}{word}", at + len(values))
        directory += struct.pack(f"{order}HH{word}", tag, kind, len(numbers))
        directory += value.ljust(room, b"\0")
    head = struct.pack(f"{order}HHH", 43, 8, 0) if big else struct.pack(f"{order}H", 42)
    mark = b"II" if order == "<" else b"MM"
    head = mark + head + struct.pack(f"{order}{word}", start + len(data))
    return head + data + directory + bytes(room) + values
