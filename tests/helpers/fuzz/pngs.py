"""PNG files whose chunks are not what they should be (https://www.w3.org/TR/png-3/)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from helpers.bad.bad_rasters import raster_seeds
from helpers.fuzz.damage import BYTE, damaged, lengths, seldom_damaged

START = b"\x89PNG\r\n\x1a\n"

_KINDS = [
    *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"tEXt"),
    *(b"zTXt", b"iTXt", b"bKGD", b"pHYs", b"sBIT", b"hIST", b"tIME", b"eXIf", b"acTL", b"fcTL"),
    *(b"fdAT", b"cICP", b"sPLT", b"CgBI", b"oFFs", b"\0\0\0\0", b"IDAX", b"abcd"),
]
_EXIF = (
    b"Exif\0\0",
    b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0",
    b"II*\0\x08\0\0\0\xff\xff",
)


@dataclass(frozen=True)
class Chunk:
    """A chunk; what is told of it is true where it is None."""

    kind: bytes
    data: bytes
    told: int | None = None
    check: int | None = None

    def encode(self) -> bytes:
        told = len(self.data) if self.told is None else self.told
        check = zlib.crc32(self.kind + self.data) if self.check is None else self.check
        return struct.pack(">I", told) + self.kind + self.data + struct.pack(">I", check)


def chunks_of(content: bytes) -> Iterator[Chunk]:
    """Give the chunks of a sound file."""
    at = len(START)
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        yield Chunk(content[at + 4 : at + 8], content[at + 8 : at + 8 + length])
        at += 12 + length


@st.composite
def _headers(draw: DrawFn, data: bytes) -> bytes:
    """Draw the data of a header with one field changed."""
    fields = list(struct.unpack(">IIBBBBB", data))
    at = draw(st.integers(0, 6))
    few = st.one_of(st.sampled_from([0, 1, 2, 3, 4, 6, 8, 16]), BYTE)
    fields[at] = draw(lengths(fields[at]) if at < 2 else few)
    return struct.pack(">IIBBBBB", *fields)


@st.composite
def _pixels(draw: DrawFn, data: bytes) -> bytes:
    """Draw the data of compressed pixels, with other ones in it or damaged."""
    try:
        rows = zlib.decompress(data)
    # Part of what was split.
    except zlib.error:
        return draw(damaged(data))
    how = draw(st.sampled_from(["rows", "stream", "longer", "tail"]))
    if how == "rows":
        return zlib.compress(draw(damaged(rows)), draw(st.integers(0, 9)))
    if how == "longer":
        return zlib.compress(rows + bytes(draw(st.sampled_from([1, 70, 5000, 3_000_000]))))
    return draw(damaged(data)) if how == "stream" else data + draw(st.binary(max_size=20))


def _texts() -> SearchStrategy[bytes]:
    """Return a strategy of the data of chunks that are no pixels."""
    packed = st.sampled_from([0, 10, 100_000, 5_000_000]).map(lambda n: zlib.compress(bytes(n)))
    key = st.sampled_from([b"", b"Software\0", b"a\0\0", b"Raw profile type exif\0\0", b"x" * 99])
    return st.one_of(
        st.binary(max_size=24),
        st.sampled_from([*_EXIF, bytes(768), b"\xff" * 300, struct.pack(">II", 2, 0)]),
        st.tuples(key, st.one_of(packed, st.binary(max_size=9))).map(b"".join),
    )


@st.composite
def changed_chunks(draw: DrawFn, chunks: tuple[Chunk, ...]) -> tuple[Chunk, ...]:
    """Draw the chunks of a file with one of them changed."""
    if not chunks:
        return (Chunk(b"IEND", b""),)
    changed, at = list(chunks), draw(st.integers(0, len(chunks) - 1))
    chunk = changed[at]
    how = draw(
        st.sampled_from(
            ["told", "check", "kind", "data", "loss", "again", "order", "split", "more"]
        )
    )
    if how == "told":
        changed[at] = replace(chunk, told=draw(lengths(len(chunk.data))))
    elif how == "check":
        changed[at] = replace(chunk, check=draw(lengths(0)))
    elif how == "kind":
        changed[at] = replace(chunk, kind=draw(st.sampled_from(_KINDS)))
    elif how == "data":
        changed[at] = replace(chunk, data=draw(_data_of(chunk)))
    elif how == "loss":
        del changed[at]
    elif how == "again":
        changed.insert(draw(st.integers(0, len(changed))), chunk)
    elif how == "order":
        other = draw(st.integers(0, len(changed) - 1))
        changed[at], changed[other] = changed[other], changed[at]
    elif how == "split":
        cut = draw(st.integers(0, len(chunk.data)))
        parts = (chunk.data[:cut], b"", chunk.data[cut:])
        changed[at : at + 1] = [replace(chunk, data=part) for part in parts]
    else:
        extra = Chunk(draw(st.sampled_from(_KINDS)), draw(_texts()))
        changed[at:at] = [extra] * draw(st.sampled_from([1, 1, 1, 2, 200]))
    return tuple(changed)


def _data_of(chunk: Chunk) -> SearchStrategy[bytes]:
    if chunk.kind == b"IHDR" and len(chunk.data) == 13:
        return _headers(chunk.data)
    if chunk.kind == b"IDAT" and chunk.data:
        return _pixels(chunk.data)
    return st.one_of(_texts(), seldom_damaged(chunk.data))


@st.composite
def changed_png(draw: DrawFn, content: bytes) -> bytes:
    """Draw a sound file with one to three changes of its chunks, and of its bytes at times."""
    chunks = tuple(chunks_of(content))
    for _ in range(draw(st.integers(1, 3))):
        chunks = draw(changed_chunks(chunks))
    return draw(seldom_damaged(START + b"".join(chunk.encode() for chunk in chunks), 8))


_SEEDS = [content for name, content in raster_seeds().items() if name.endswith(".png")]


@st.composite
def png_files(draw: DrawFn) -> bytes:
    """Draw a PNG file of any kind of pixels with odd chunks."""
    return draw(changed_png(draw(st.sampled_from(_SEEDS))))


def lacks_pixels(content: bytes) -> bool:
    """Tell whether the pixels of a PNG file are surely damaged or not all there.

    Of interlaced files, and of those with several headers, nothing is known. Where the data end in
    order before the image does, Pillow leaves the rest black.
    """
    headers, packed, at = [], b"", len(START)
    while at + 8 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        kind, data = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            headers.append(data)
        # Pixels before the header do not count.
        elif kind == b"IDAT" and headers:
            packed += data
        elif kind == b"IEND":
            break
        at += 12 + length
    if len(headers) != 1 or len(headers[0]) != 13:
        return False
    width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", headers[0])
    if interlaced:
        return False
    channels = {2: 3, 4: 2, 6: 4}.get(color, 1)
    size = height * (1 + -(-width * depth * channels // 8))
    inflate = zlib.decompressobj()
    try:
        found = inflate.decompress(packed, size)
    except zlib.error:
        return True
    return len(found) < size and not inflate.eof
