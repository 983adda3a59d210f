"""Bad files that claim to be PNG, JPEG, TIFF or BMP."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from helpers.bad.damage import SIDE, Named
from helpers.drawing.phantoms import blocks


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def raster_seeds() -> dict[str, bytes]:
    gray = Image.fromarray(blocks(SIDE, SIDE))
    deep = Image.fromarray(blocks(SIDE, SIDE).astype(np.uint16) * 257)
    color = gray.convert("RGB")
    return {
        "gray.png": _saved(gray, "PNG"),
        "gray16.png": _saved(deep, "PNG"),
        "alpha.png": _saved(color.convert("RGBA"), "PNG"),
        "palette.png": _saved(gray.convert("P"), "PNG"),
        "bits.png": _saved(gray.convert("1"), "PNG"),
        "gray.jpg": _saved(gray, "JPEG"),
        "progressive.jpg": _saved(color, "JPEG", progressive=True),
        "cmyk.jpg": _saved(color.convert("CMYK"), "JPEG"),
        "raw.tif": _saved(gray, "TIFF"),
        "deep.tif": _saved(deep, "TIFF"),
        "float.tif": _saved(gray.convert("F"), "TIFF"),
        "lzw.tif": _saved(deep, "TIFF", compression="tiff_lzw"),
        "deflate.tif": _saved(color, "TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tif": _saved(color, "TIFF", compression="jpeg"),
        "packbits.tif": _saved(gray, "TIFF", compression="packbits"),
        "fax.tif": _saved(gray.convert("1"), "TIFF", compression="group4"),
        "gray.bmp": _saved(gray, "BMP"),
        "color.bmp": _saved(color, "BMP"),
    }


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(
    size: tuple[int, int], depth: int = 8, color: int = 0, extra: bytes = b"", data: bytes = b""
) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0))
    pixels = _chunk(b"IDAT", data or zlib.compress(bytes(SIDE * (SIDE + 1))))
    return b"\x89PNG\r\n\x1a\n" + header + extra + pixels + _chunk(b"IEND", b"")


def _tiff(*directories: dict[int, tuple[int, int]], loop: bool = False) -> bytes:
    """Return a TIFF of tag -> (type, value) per page; the last page leads to the first in a loop.

    Its 4096 pixels lie at offset 8.
    """
    content = bytearray(b"II*\0" + struct.pack("<I", 8 + SIDE * SIDE) + bytes(SIDE * SIDE))
    first = len(content)
    for number, tags in enumerate(directories):
        content += struct.pack("<H", len(tags))
        for tag, (kind, value) in sorted(tags.items()):
            content += struct.pack("<HHII", tag, kind, 1, value & 0xFFFFFFFF)
        last = number == len(directories) - 1
        following = (first if loop else 0) if last else len(content) + 4
        content += struct.pack("<I", following)
    return bytes(content)


_PAGE = {
    **{256: (4, SIDE), 257: (4, SIDE), 258: (3, 8), 259: (3, 1), 262: (3, 1)},
    **{273: (4, 8), 277: (3, 1), 278: (4, SIDE), 279: (4, SIDE * SIDE)},
}


def _bmp(size: tuple[int, int], bits: int, compression: int, data: bytes, colors: int = 0) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, compression, 0, 0, 0, colors, colors)
    palette = bytes(4 * min(colors or 256, 256)) if bits <= 8 else b""
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + palette + data


_TOP = 2**31 - 1


def raster_headers() -> Named:
    """Yield PNG, JPEG, TIFF and BMP files whose headers contradict their pixels, or are hostile."""
    yield from _png_headers()
    yield from _jpeg_headers()
    yield from _tiff_headers()
    yield from _bmp_headers()


def _png_headers() -> Named:
    for width, height in ((0, 0), (0, 64), (1, 1), (31, 64), (_TOP, _TOP), (2**32 - 1, 64)):
        yield f"size-{width}x{height}.png", _png((width, height))
    for width, height in ((64, 65), (10_000, 10_000), (10_001, 10_000), (30_000, 3_000)):
        yield f"few-pixels-{width}x{height}.png", _png((width, height))
    for depth, color in ((0, 0), (3, 0), (16, 3), (1, 2), (8, 5), (8, 7), (255, 255), (8, 3)):
        yield f"depth-{depth}-color-{color}.png", _png((64, 64), depth, color)
    zeros = zlib.compress(bytes(20_000_000), 9)
    yield "bomb-bits.png", _png((20_000, 2_000), 1, data=zeros)
    yield "bomb-more-data-than-pixels.png", _png((64, 64), data=zeros)
    yield "bomb-text.png", _png((64, 64), extra=_chunk(b"zTXt", b"Comment\0\0" + zeros))
    yield (
        "bomb-many-texts.png",
        _png((64, 64), extra=_chunk(b"zTXt", b"a\0\0" + zeros[:9999]) * 200),
    )
    yield "bomb-profile.png", _png((64, 64), extra=_chunk(b"iCCP", b"a\0\0" + zeros))
    yield "frames.png", _png((64, 64), extra=_chunk(b"acTL", struct.pack(">II", 2**31, 0)))
    yield "transparency.png", _png((64, 64), extra=_chunk(b"tRNS", b""))
    yield "exif.png", _png((64, 64), extra=_chunk(b"eXIf", b"MM\0*" + b"\xff" * 40))
    gray = raster_seeds()["gray.png"]
    yield "no-data.png", gray[: gray.index(b"IDAT") - 4] + _chunk(b"IEND", b"")
    yield "no-end.png", gray[:-12]
    yield "long-chunk.png", gray[:33] + struct.pack(">I", 2**32 - 1) + b"IDAT" + gray[41:]


def _jpeg_headers() -> Named:
    jpeg = raster_seeds()["gray.jpg"]
    frame = jpeg.index(b"\xff\xc0")
    for precision, height, width in (
        *((8, 0, 0), (8, 0, 64), (8, 65535, 65535), (8, 5_000, 5_000), (8, 65, 64)),
        *((12, 64, 64), (16, 64, 64), (0, 64, 64)),
    ):
        told = struct.pack(">BHH", precision, height, width)
        name = f"frame-{precision}-{width}x{height}.jpg"
        yield name, jpeg[: frame + 4] + told + jpeg[frame + 9 :]
    for components in (0, 2, 255):
        content = jpeg[: frame + 9] + bytes([components]) + jpeg[frame + 10 :]
        yield f"components-{components}.jpg", content
    for name, marker in (("no-tables", b"\xff\xc4"), ("no-quantization", b"\xff\xdb")):
        yield f"{name}.jpg", jpeg.replace(marker, b"\xff\xec")
    yield "long-comment.jpg", jpeg[:2] + b"\xff\xfe\xff\xff" + jpeg[2:]
    yield "zero-comment.jpg", jpeg[:2] + b"\xff\xfe\0\0" + jpeg[2:]
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\xff\xff\xff\xff\xff"
    yield "exif.jpg", jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    yield "twice.jpg", jpeg[:-2] + jpeg
    yield "restarts.jpg", jpeg[:-2] + b"\xff\xd0\xff\xd1" * 100_000


def _tiff_headers() -> Named:
    for tag, value in (
        *((256, 0), (256, 2**32 - 1), (257, 0), (257, 500_000), (256, 10**4)),
        *((258, 0), (258, 3), (258, 64), (258, 65535), (277, 0), (277, 65535), (278, 0)),
        *((259, 0), (259, 4), (259, 5), (259, 6), (259, 7), (259, 34712), (259, 65535)),
        *((262, 3), (262, 6), (262, 65535), (273, 2**32 - 1), (279, 2**32 - 1), (279, 0)),
    ):
        yield f"tag-{tag}-{value}.tif", _tiff({**_PAGE, tag: (_PAGE[tag][0], value)})
    for tag in sorted(_PAGE):
        yield f"no-tag-{tag}.tif", _tiff({k: v for k, v in _PAGE.items() if k != tag})
    yield "wrong-types.tif", _tiff({tag: (2, value) for tag, (_, value) in _PAGE.items()})
    yield "loop.tif", _tiff(_PAGE, loop=True)
    yield "loop-of-two.tif", _tiff(_PAGE, _PAGE, loop=True)
    yield "pages.tif", _tiff(*[_PAGE] * 50_000)
    yield "empty-pages.tif", _tiff(_PAGE, *[{}] * 300_000)
    yield "no-directory.tif", b"II*\0" + struct.pack("<I", 2**32 - 1)
    yield "big.tif", b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**63 - 1) + bytes(100)
    yield "tags.tif", b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 65535 * 12
    many = _tiff({**_PAGE, **{tag: (4, 2**32 - 1) for tag in range(1000, 30_000)}})
    yield "many-tags.tif", many


def _bmp_headers() -> Named:
    pixels = bytes(SIDE * SIDE * 4)
    for width, height in ((0, 0), (-64, 64), (64, -(2**31)), (_TOP, _TOP), (64, 10**6)):
        yield f"size-{width}x{height}.bmp", _bmp((width, height), 24, 0, pixels)
    for bits in (0, 3, 16, 64, 65535):
        yield f"bits-{bits}.bmp", _bmp((64, 64), bits, 0, pixels)
    for compression in (2, 3, 4, 5, 6, 2**32 - 1):
        yield f"compression-{compression}.bmp", _bmp((64, 64), 8, compression, pixels)
    # Runs, ends of line, and jumps, of which each costs the decoder more than it costs the file.
    for name, code in (("run", b"\xff\0"), ("end", b"\0\0"), ("jump", b"\0\x02\xff\xff")):
        yield f"rle-{name}.bmp", _bmp((5_000, 5_000), 8, 1, code * 100_000)
        yield f"rle-{name}-small.bmp", _bmp((64, 64), 8, 1, code * 100_000)
    yield "colors.bmp", _bmp((64, 64), 8, 0, pixels, colors=2**31 - 1)
    yield "start.bmp", b"BM" + b"\xff" * 12 + _bmp((64, 64), 8, 0, pixels)[14:]
    yield "info.bmp", b"BM" + bytes(12) + b"\xff" * 40


def other_kinds() -> Named:
    """Yield files of other kinds and of none, under the names of images."""
    image = Image.fromarray(blocks(SIDE, SIDE))
    for kind in ("GIF", "WEBP", "PPM", "ICO", "TGA", "PCX", "JPEG2000", "EPS"):
        yield f"is-{kind.lower()}.png", _saved(image, kind)
    frames = {"save_all": True, "append_images": [image.rotate(90)]}
    yield "animated.png", _saved(image, "PNG", **frames)
    yield "two-pages.tif", _saved(image, "TIFF", **frames)
    text = b"The lungs are clear.\n" * 40
    for suffix in ("png", "jpg", "tif", "bmp", "dcm"):
        yield f"empty.{suffix}", b""
        yield f"text.{suffix}", text
        yield f"zeros.{suffix}", bytes(5000)
    for name, content in (
        ("one-byte", b"\x89"),
        ("utf16", "Röntgen".encode("utf-16") * 50),
        ("pdf", b"%PDF-1.4\n" + text),
        ("zip", b"PK\x03\x04" + bytes(200)),
        ("gzip", gzip.compress(text, mtime=0)),
        ("program", b"\x7fELF" + bytes(200)),
        ("web-page", b"<!DOCTYPE html><html><body>404</body></html>"),
        ("vector", b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
        ("pickle", b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x93."),
        ("array", b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
    ):
        yield f"{name}.png", content
    for name, magic in (
        *(("png", b"\x89PNG\r\n\x1a\n"), ("jpg", b"\xff\xd8\xff"), ("bmp", b"BM")),
        *(("tif", b"II*\0"), ("dcm", bytes(128) + b"DICM")),
    ):
        yield f"magic.{name}", magic
        yield f"magic-and-text.{name}", magic + text
