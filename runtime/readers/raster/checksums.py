"""Checksums of PNG files, which Pillow does not look at."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO

_START = 8
_PIECE = 1 << 16
_INFLATED = 1 << 20


def has_sound_pixels(file: BinaryIO, most: int) -> bool:
    """Tell whether the pixels of a PNG file are those that were written.

    Each chunk has a checksum. Where one is wrong, that of the pixels themselves decides, which
    the compression adds.

    Args:
        file: The open file.
        most: Bytes that its pixels may take, not compressed.
    """
    return _sums_are_right(file) or _inflates(file, most)


def _sums_are_right(file: BinaryIO) -> bool:
    found = zlib.crc32(b"IDAT")
    for part in _pixels(file):
        if isinstance(part, bytes):
            found = zlib.crc32(part, found)
        elif part != found:
            return False
        else:
            found = zlib.crc32(b"IDAT")
    return True


def _inflates(file: BinaryIO, most: int) -> bool:
    inflate = zlib.decompressobj()
    try:
        for part in _pixels(file):
            rest = part if isinstance(part, bytes) else b""
            while rest:
                most -= len(inflate.decompress(rest, _INFLATED))
                rest = inflate.unconsumed_tail
                if most < 0:
                    return False
    except zlib.error:
        return False
    return inflate.eof


def _pixels(file: BinaryIO) -> Iterator[bytes | int]:
    """Yield the data of the chunks of pixels in pieces, and behind each chunk its checksum."""
    file.seek(_START)
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4]), head[4:]
        if kind != b"IDAT":
            file.seek(length + 4, 1)
            continue
        while length and (piece := file.read(min(length, _PIECE))):
            length -= len(piece)
            yield piece
        yield int.from_bytes(file.read(4))
