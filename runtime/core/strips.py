"""Large images row by row, so that no step needs several copies of one."""

from __future__ import annotations

from collections.abc import Iterator

STRIP_PIXELS = 1 << 22
"""Pixels that are worked on at once; an ordinary X-ray is one or two strips."""


def strips(height: int, width: int) -> Iterator[slice]:
    """Give the rows of an image in slices of about `STRIP_PIXELS` pixels, from the top."""
    rows = max(1, STRIP_PIXELS // max(1, width))
    return (slice(start, min(start + rows, height)) for start in range(0, height, rows))
