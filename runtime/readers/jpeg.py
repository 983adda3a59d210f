"""The segments of a JPEG stream (ITU-T T.81, B.1.1), and how many scans a decoder may be given."""

from __future__ import annotations

import re
from collections.abc import Iterator

from cxrseg.runtime.core.radiograph import MAX_PIXELS

MAX_SCANS = 100
"""Most scans of a picture; a progressive JPEG has about ten."""

_MAX_WORK = 20 * MAX_PIXELS
"""Most pixels that all scans together pass."""

SCAN = 0xDA
END = 0xD9

# No stuffed 0xFF, no restart, no filling.
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
# TEM and SOI: nothing follows them.
_ALONE = (0x01, 0xD8)


def segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and body of each segment, as far as the end marker; coded data are passed."""
    at = 2
    while found := _MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        body = b""
        if marker not in (*_ALONE, END):
            length = int.from_bytes(data[at : at + 2])
            body = data[at + 2 : at + length]
            at += max(2, length)
        yield marker, body
        if marker == END:
            return


def check_scans(data: bytes, pixels: int) -> None:
    """Refuse a picture that takes a decoder minutes although its file is small.

    A scan of a few bytes may pass all pixels, and may come any number of times.

    Args:
        data: The stream.
        pixels: How many pixels the picture has.

    Raises:
        ValueError: It has more scans than any encoder makes.
    """
    most = min(MAX_SCANS, _MAX_WORK // max(1, pixels))
    scans = sum(marker == SCAN for marker, _ in segments(data))
    if scans > most:
        raise ValueError(f"its JPEG has {scans} scans, at most {most} are accepted")
