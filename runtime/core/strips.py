"""Large images row by row, so that no step needs several copies of one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

STRIP_PIXELS = 1 << 22
"""Pixels that are worked on at once; an ordinary X-ray is one or two strips."""


def strips(height: int, width: int) -> Iterator[slice]:
    """Give the rows of an image in slices of the same size, `STRIP_PIXELS` pixels at most."""
    count = min(height, -(-height * width // STRIP_PIXELS))
    bounds = [i * height // count for i in range(count + 1)] if count else []
    return (slice(start, stop) for start, stop in pairwise(bounds))
