"""Small pictures that take a decoder minutes or gigabytes."""

from __future__ import annotations

import io
import re
import struct

import imagecodecs
import numpy as np
from PIL import Image


def scans(times: int, side: int = 256, *, progressive: bool = True, ended: bool = True) -> bytes:
    """Return a gray JPEG whose shortest scan comes `times` more times."""
    buffer = io.BytesIO()
    Image.new("L", (side, side), 128).save(buffer, "JPEG", progressive=progressive)
    content = buffer.getvalue().removesuffix(b"\xff\xd9")
    starts = [found.start() for found in re.finditer(rb"\xff\xda", content)]
    ends = [*starts[1:], len(content)]
    scan = min((content[a:b] for a, b in zip(starts, ends, strict=True)), key=len)
    return content + times * scan + (b"\xff\xd9" if ended else b"")


def precincts(exponent: int, side: int = 1024, *, in_tile: bool = False) -> bytes:
    """Return a JPEG 2000 stream that tells of precincts of 2**exponent pixels a side."""
    image = np.zeros((side, side), np.uint8)
    stream = imagecodecs.jpeg2k_encode(image, level=None, codecformat="j2k", reversible=True)
    at = stream.index(b"\xff\x52")
    (length,) = struct.unpack_from(">H", stream, at + 2)
    body = bytearray(stream[at + 4 : at + 2 + length])
    body[0] |= 1
    body += bytes([exponent << 4 | exponent]) * (body[5] + 1)
    told = struct.pack(">2H", 0xFF52, len(body) + 2) + body
    if not in_tile:
        return stream[:at] + told + stream[at + 2 + length :]
    part = stream.index(b"\xff\x90")
    (size,) = struct.unpack_from(">I", stream, part + 6)
    head = stream[part : part + 6] + struct.pack(">I", size + len(told)) + stream[part + 10 :][:2]
    return stream[:part] + head + told + stream[part + 12 :]


def components(count: int, side: int = 256) -> bytes:
    """Return a JPEG 2000 stream that tells of so many values per pixel."""
    image = np.zeros((side, side), np.uint8)
    stream = imagecodecs.jpeg2k_encode(image, level=None, codecformat="j2k", reversible=True)
    at = stream.index(b"\xff\x51")
    (length,) = struct.unpack_from(">H", stream, at + 2)
    told = struct.pack(">2H", 0xFF51, 38 + 3 * count) + stream[at + 4 : at + 38]
    told += struct.pack(">H", count) + bytes([7, 1, 1]) * count
    return stream[:at] + told + stream[at + 2 + length :]
