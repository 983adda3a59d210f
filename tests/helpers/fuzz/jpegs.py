"""JPEG files whose segments are not what they should be (ITU-T T.81, annex B)."""

from __future__ import annotations

import struct

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from helpers.bad.bad_rasters import raster_seeds
from helpers.fuzz.damage import BYTE, damaged, lengths, seldom_damaged

_SCAN, _END = 0xDA, 0xD9
_EXIF = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
_MARKERS = [
    *(0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xC8, 0xC9, 0xCC, 0xD0, 0xD7, 0xD8, 0xD9, 0xDA, 0xDB, 0xDC),
    *(0xDD, 0xDE, 0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE, 0x00, 0x01, 0xFF),
]

Segment = tuple[int, bytes, bytes]
"""Marker, the bytes behind its length, and the coded data that follow."""


def _segments(content: bytes) -> list[Segment]:
    """Return the segments of a sound file between its start and its end."""
    found: list[Segment] = []
    at = 2
    while content[at + 1] != _END:
        marker = content[at + 1]
        (length,) = struct.unpack_from(">H", content, at + 2)
        end = following = at + 2 + length
        if marker == _SCAN:
            while content[following] != 0xFF or content[following + 1] in (0, *range(0xD0, 0xD8)):
                following += 1
        found.append((marker, content[at + 4 : end], content[end:following]))
        at = following
    return found


@st.composite
def _changed(draw: DrawFn, segments: list[Segment]) -> bytes:
    """Draw a file of segments with one of them changed."""
    parts = [_encode(*segment) for segment in segments]
    at = draw(st.integers(0, len(parts) - 1))
    marker, data, coded = segments[at]
    how = draw(
        st.sampled_from(
            ["told", "marker", "data", "coded", "loss", "again", "order", "more", "cut"]
        )
    )
    if how == "told":
        parts[at] = _encode(marker, data, coded, draw(lengths(len(data) + 2, 16)))
    elif how == "marker":
        parts[at] = _encode(draw(st.sampled_from(_MARKERS)), data, coded)
    elif how == "data" and data:
        changed = bytearray(data)
        changed[draw(st.integers(0, len(data) - 1))] = draw(BYTE)
        parts[at] = _encode(marker, bytes(changed), coded)
    elif how == "coded":
        parts[at] = _encode(marker, data, draw(damaged(coded or b"\0")))
    elif how == "loss":
        del parts[at]
    elif how == "again":
        parts.insert(draw(st.integers(0, len(parts))), parts[at])
    elif how == "order":
        parts.insert(draw(st.integers(0, len(parts) - 1)), parts.pop(at))
    elif how == "cut":
        parts[at:] = [parts[at][: draw(st.integers(0, len(parts[at])))]]
    else:
        extra = draw(st.one_of(st.just(_EXIF), st.binary(max_size=30)))
        parts.insert(at, _encode(draw(st.sampled_from(_MARKERS)), extra, b""))
    return b"\xff\xd8" + b"".join(parts)


def _encode(marker: int, data: bytes, coded: bytes, told: int | None = None) -> bytes:
    length = len(data) + 2 if told is None else told
    return bytes([0xFF, marker]) + struct.pack(">H", length) + data + coded


_SEEDS = [content for name, content in raster_seeds().items() if name.endswith(".jpg")]


@st.composite
def jpeg_files(draw: DrawFn) -> bytes:
    """Draw a JPEG file, baseline or progressive, with one odd segment, or with odd bytes, or both.

    One of three lacks its end.
    """
    segments = _segments(draw(st.sampled_from(_SEEDS)))
    content = draw(_changed(segments))
    content += draw(st.sampled_from([b"\xff\xd9", b"\xff\xd9", b"", b"\xff\xd9" + content]))
    return draw(seldom_damaged(content, 3))
