"""The header of a JPEG 2000 code stream (ITU-T T.800, annex A), with which HTJ2K begins as well."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import error, unpack_from

_START = b"\xff\x4f\xff\x51"
"""SOC, and SIZ, which directly follows."""

_COD, _COC, _SOT, _SOD = 0xFF52, 0xFF53, 0xFF90, 0xFF93

MAX_COMPONENTS = 4
"""Most values per pixel: color and transparency."""

_MAX_PRECINCTS = 400_000
"""Most precincts of all components; of each a decoder keeps more than a kilobyte."""


@dataclass(frozen=True)
class Picture:
    """What the code stream holds.

    Attributes:
        height: In pixels.
        width: In pixels.
        components: Values per pixel.
    """

    height: int
    width: int
    components: int


def read_header(data: bytes) -> Picture | None:
    """Read SIZ of a code stream, alone or in a JP2 file; None where there is none."""
    start = data.find(_START)
    if start < 0 or start + 42 > len(data):
        return None
    width, height, left, top, components = unpack_from(">4I16xH", data, start + 8)
    return Picture(height - top, width - left, components)


def check_parts(data: bytes) -> None:
    """Refuse a picture that takes a decoder gigabytes although its file is small.

    Raises:
        ValueError: It has more components than a picture, or more precincts than an encoder makes.
    """
    picture = read_header(data)
    if picture is None:
        return
    if picture.components > MAX_COMPONENTS:
        raise ValueError(f"{picture.components} values per pixel are not supported")
    for levels, sizes in _precinct_sizes(data):
        count = sum(
            -(-picture.height >> (level + (size >> 4))) * -(-picture.width >> (level + (size & 15)))
            for level, size in zip(range(levels, -1, -1), sizes, strict=False)
        )
        if count * picture.components > _MAX_PRECINCTS:
            raise ValueError(f"its JPEG 2000 has {count} precincts")


def _precinct_sizes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield levels and sizes of precincts (A.6.1) of each header that tells them."""
    try:
        for marker, body in _headers(data):
            # COC begins with the number of its component: one byte, since there are few.
            if marker == _COD and body[0] & 1:
                yield body[5], body[10:]
            elif marker == _COC and body[1] & 1:
                yield body[2], body[7:]
    # What is cut short the decoder refuses.
    except (IndexError, error):
        return


def _headers(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and body of the segments of the main header and of those of the tile-parts."""
    at = data.find(_START) + 2
    end_of_part = 0
    while at + 4 <= len(data):
        marker, length = unpack_from(">2H", data, at)
        if marker == _SOD:
            if end_of_part <= at:
                return
            at = end_of_part
            continue
        if marker < 0xFF00 or length < 2:
            return
        if marker == _SOT:
            end_of_part = at + unpack_from(">I", data, at + 6)[0]
        yield marker, data[at + 4 : at + 2 + length]
        at += 2 + length
