"""Files that Pillow refuses: read where all pixels are there, refused where some are missing."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxrseg.runtime import CxrsegError, read
from cxrseg.runtime.readers.raster.checksums import has_sound_pixels
from helpers.drawing.phantoms import draw

IMAGE = draw(1, (256, 240)).image
TEXT = b"<a/>" * 300_000
"""Metadata of more than a megabyte."""


def encoded(kind: str, mode: str = "L", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(IMAGE).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


METADATA = {
    "profile": chunk(b"iCCP", b"x\0\0" + zlib.compress(TEXT)),
    "packed text": chunk(b"zTXt", b"x\0\0" + zlib.compress(TEXT)),
    "packed international text": chunk(b"iTXt", b"x\0\1\0\0\0" + zlib.compress(TEXT)),
    "long text": chunk(b"tEXt", b"x\0" + TEXT * 60),
    "damaged text": chunk(b"tEXt", b"x\0abc")[:-1] + b"?",
    "damaged Exif data": chunk(b"eXIf", b"garbage"),
    "short resolution": chunk(b"pHYs", b"xx"),
}


@pytest.mark.parametrize("name", METADATA)
@pytest.mark.parametrize("before_pixels", [True, False])
def test_png_is_read_whatever_its_metadata(name: str, before_pixels: bool, tmp_path: Path) -> None:
    content = encoded("PNG")
    at = 33 if before_pixels else len(content) - 12
    path = tmp_path / "x.png"
    path.write_bytes(content[:at] + METADATA[name] + content[at:])
    np.testing.assert_allclose(read(path).pixels, IMAGE / 255, atol=1e-6)


def test_metadata_do_not_cost_the_orientation_and_transparency(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    level = int(IMAGE[0, 0])
    content = encoded("PNG", transparency=level, exif=exif)
    path = tmp_path / "x.png"
    path.write_bytes(content[:33] + METADATA["profile"] + content[33:])
    clear = IMAGE * (level != IMAGE)
    np.testing.assert_allclose(read(path).pixels, np.rot90(clear, -1) / 255, atol=1e-6)


def in_chunks(content: bytes, pieces: int) -> bytes:
    """Return a PNG with its pixels in as many chunks."""
    data = content[41:-16]
    size = -(-len(data) // pieces)
    chunks = [chunk(b"IDAT", data[at : at + size]) for at in range(0, len(data), size)]
    return content[:33] + b"".join(chunks) + content[-12:]


@pytest.mark.parametrize("pieces", [1, 2, 9])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.9, 1])
def test_png_whose_pixels_are_damaged_is_refused(pieces: int, share: float, tmp_path: Path) -> None:
    """At the end it is the checksum of the pixels that is wrong."""
    path = tmp_path / "x.png"
    content = bytearray(in_chunks(encoded("PNG"), pieces))
    path.write_bytes(content)
    np.testing.assert_allclose(read(path).pixels, IMAGE / 255, atol=1e-6)
    start, end = content.index(b"IDAT") + 8, len(content) - 12 - 5
    for bits in (1, 0x55, 0xFF):
        content[start + int(share * (end - start))] ^= bits
        path.write_bytes(content)
        with pytest.raises(CxrsegError, match="damaged"):
            read(path)


@pytest.mark.parametrize("pieces", [1, 9])
def test_wrong_checksum_of_a_chunk_alone_does_no_harm(pieces: int, tmp_path: Path) -> None:
    content = bytearray(in_chunks(encoded("PNG"), pieces))
    content[-13] ^= 1
    if pieces > 1:
        content[content.rindex(b"IDAT") - 5] ^= 1
    path = tmp_path / "x.png"
    path.write_bytes(content)
    np.testing.assert_allclose(read(path).pixels, IMAGE / 255, atol=1e-6)


def test_no_more_is_inflated_than_pixels_take() -> None:
    bomb = bytearray(chunk(b"IDAT", zlib.compress(bytes(400_000_000), 9)))
    bomb[-1] ^= 1
    file = io.BytesIO(encoded("PNG")[:33] + bomb)
    assert not has_sound_pixels(file, 60_000)
    # After the first piece: one of 64 KiB is inflated to 64 MB.
    assert file.tell() < 70_000


@pytest.mark.parametrize("missing", [1, 30, 1000])
def test_png_that_lacks_pixels_is_refused(missing: int, tmp_path: Path) -> None:
    content = encoded("PNG")
    end = content.rindex(b"IDAT")
    path = tmp_path / "x.png"
    path.write_bytes(content[: end + 4] + content[end + 4 : -12][: -20 - missing])
    with pytest.raises(CxrsegError, match="damaged"):
        read(path)


JPEGS = {
    "baseline": encoded("JPEG", quality=90),
    "color": encoded("JPEG", "RGB", quality=90),
    "CMYK": encoded("JPEG", "CMYK", quality=90),
    "optimized": encoded("JPEG", quality=60, optimize=True),
    "restarts": encoded("JPEG", quality=90, restart_marker_blocks=10),
    "restarts in rows": encoded("JPEG", "RGB", quality=90, restart_marker_rows=1),
    "progressive": encoded("JPEG", quality=90, progressive=True),
    "progressive color": encoded("JPEG", "RGB", quality=90, progressive=True),
}


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("missing", [1, 2])
def test_jpeg_that_lacks_its_end_marker_is_read(name: str, missing: int, tmp_path: Path) -> None:
    path, whole = tmp_path / "x.jpg", tmp_path / "whole.jpg"
    whole.write_bytes(JPEGS[name])
    path.write_bytes(JPEGS[name][:-missing])
    np.testing.assert_array_equal(read(path).pixels, read(whole).pixels)


def cuts(content: bytes) -> list[int]:
    """Return where a JPEG is cut: in its data, and before and after its last scans and restarts."""
    markers = [m.start() for m in re.finditer(rb"\xff[\xda\xd0-\xd7]", content)]
    near = [at + 2 * after for at in markers[1:][-5:] for after in (0, 1)]
    return [len(content) - n for n in (30, 100, 1000, 4000)] + near


@pytest.mark.parametrize("name", JPEGS)
def test_jpeg_that_lacks_pixels_is_refused(name: str, tmp_path: Path) -> None:
    path, whole = tmp_path / "x.jpg", tmp_path / "whole.jpg"
    whole.write_bytes(JPEGS[name])
    expected = read(whole).pixels
    refused = 0
    for cut in cuts(JPEGS[name]):
        path.write_bytes(JPEGS[name][:cut])
        try:
            # Flat parts may go on as they were cut off.
            np.testing.assert_array_equal(read(path).pixels, expected)
        except CxrsegError as error:
            assert "damaged" in str(error)
            refused += 1
    assert refused >= 4


@pytest.mark.parametrize("tail", [b"\xff", b"\xff" * 500, bytes(500)])
def test_jpeg_with_filling_for_its_end(tail: bytes, tmp_path: Path) -> None:
    path, content = tmp_path / "x.jpg", encoded("JPEG")
    path.write_bytes(content)
    expected = read(path).pixels
    path.write_bytes(content[:-2] + tail)
    np.testing.assert_array_equal(read(path).pixels, expected)


def test_jpeg_with_a_short_segment_is_refused_as_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    content = encoded("JPEG", progressive=True)
    frame = content.index(b"\xff\xc2")
    path.write_bytes(content[:frame] + b"\xff\xc2\0\2" + content[frame + 4 : -2])
    with pytest.raises(CxrsegError, match="is damaged or of a kind that cannot be read; export"):
        read(path)


def test_tiff_with_long_metadata_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(encoded("TIFF", icc_profile=TEXT * 4, tiffinfo={270: "x" * 3_000_000}))
    np.testing.assert_allclose(read(path).pixels, IMAGE / 255, atol=1e-6)


@pytest.mark.parametrize("alpha", [0, 255])
def test_bitmap_with_an_empty_fourth_byte_is_opaque(alpha: int, tmp_path: Path) -> None:
    height, width = IMAGE.shape
    pixels = np.dstack([IMAGE, IMAGE, IMAGE, np.full_like(IMAGE, alpha)])[::-1]
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    sizes = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, 0, 0, 0, 0, 0)
    start = 14 + 108
    head = b"BM" + struct.pack("<IHHI", start + pixels.size, 0, 0, start)
    path = tmp_path / "x.bmp"
    path.write_bytes(head + sizes + masks + b"BGRs" + bytes(48) + pixels.tobytes())
    np.testing.assert_allclose(read(path).pixels, IMAGE / 255, atol=1e-6)


def test_jpeg_with_damaged_exif_data_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(encoded("JPEG", exif=b"Exif\0\0garbage, not a TIFF"))
    np.testing.assert_allclose(read(path).pixels, IMAGE / 255, atol=0.2)
