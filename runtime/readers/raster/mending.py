"""Files that Pillow refuses although all their pixels are there.

A PNG is read without its metadata: profiles and texts that are damaged or longer than Pillow takes.
A JPEG that lacks its end marker gets one.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

from cxrseg.runtime.readers.jpeg import END, SCAN, segments

# What the pixels need; then the orientation, and what tells that there are several frames.
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"acTL")

_PNG_START = 8
_MAX_ORIENTATION = 1 << 16
"""Longest Exif data that are kept, in bytes; Pillow bounds them no more than this does."""

_END = b"\xff\xd9"


def _continued(bits: bytes, restart: int) -> bytes:
    """Return coded data with all restart markers, from one of the eight on."""
    numbers = [(restart + i) % 8 for i in range(16)]
    return b"".join(bits * 16 + bytes((0xFF, 0xD0 + number)) for number in numbers)


_TAILS = (b"", _continued(b"\xaa", 0), _continued(b"\x55", 4))
"""What may follow the last pixel without changing any. A picture whose data ended early goes on
differently with each; one that waits for a restart marker takes the first of one or of the other.
"""

_PROGRESSIVE = 0xC2
_COEFFICIENTS = 64


def without_metadata(file: BinaryIO) -> BinaryIO:
    """Return a PNG file with the chunks that its pixels need, and no others.

    Args:
        file: The open file.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    kept = [file.read(_PNG_START)]
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4]), head[4:]
        wanted = kind in _PIXEL_CHUNKS and (kind != b"eXIf" or length <= _MAX_ORIENTATION)
        if wanted:
            kept += [head, file.read(min(length + 4, size))]
        else:
            file.seek(length + 4, io.SEEK_CUR)
    return io.BytesIO(b"".join(kept))


def with_end(file: BinaryIO) -> Iterator[BinaryIO]:
    """Give a JPEG file that lacks its end marker several times, with one and with more before it.

    All its pixels are there if each of these shows the same picture.

    Args:
        file: The open file.

    Yields:
        Nothing where the file does not lack its end marker alone.
    """
    file.seek(0)
    # What a drive is filled with before anything is written to it follows at times.
    data = file.read().rstrip(b"\xff")
    try:
        complete = not _lacks_scans(data)
    # A segment that is cut short, or of a component that is not there.
    except (IndexError, KeyError, ValueError):
        complete = False
    if complete:
        for tail in _TAILS:
            yield io.BytesIO(data + tail + _END)


def _lacks_scans(data: bytes) -> bool:
    """Tell whether a JPEG has an end already, or is progressive and some of its scans are missing.

    A progressive JPEG comes in scans (ITU-T T.81, G.1): each refines some coefficients of some
    components by a bit. In the end all of them are exact.
    """
    progressive = False
    missing: dict[int, set[int]] = {}
    for marker, body in segments(data):
        if marker == END:
            return True
        if marker == _PROGRESSIVE:
            progressive = True
            missing = {body[6 + 3 * i]: {*range(_COEFFICIENTS)} for i in range(body[5])}
        elif marker == SCAN and progressive:
            first, last, bits = body[-3:]
            for component in body[1 : 1 + 2 * body[0] : 2]:
                # The lower four bits: how many bits this scan leaves to later ones.
                if bits & 15 == 0:
                    missing[component] -= {*range(first, last + 1)}
    return any(missing.values())
