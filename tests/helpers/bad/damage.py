"""What the bad files have in common."""

from __future__ import annotations

from collections.abc import Iterator

SIDE = 64
"""Sides of the images that are damaged, in pixels."""

Named = Iterator[tuple[str, bytes]]
"""A file name's end, which tells what is wrong, and the file's content."""
