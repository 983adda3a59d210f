"""TIFF: numbers of any type, byte order and orientation are right, or refused by their name."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrseg.runtime import CxrsegError, read
from cxrseg.runtime.core.radiograph import MAX_PIXELS
from cxrseg.runtime.readers.raster import read_picture
from helpers.drawing.tiffs import tiff

HEIGHT, WIDTH = 40, 50
RAMP = np.linspace(0.2, 1, HEIGHT)[:, None] * np.linspace(0, 1, WIDTH)
BYTES = np.uint8(255 * RAMP)
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}
"""Exif orientation -> how a stored image is laid upright."""


def saved(folder: Path, content: bytes) -> Path:
    path = folder / "x.tif"
    path.write_bytes(content)
    return path


def numbers(dtype: str) -> np.ndarray:
    """Return the ramp as numbers of a type, with negative ones where it has them."""
    kind = np.dtype(dtype)
    if kind.kind == "u":
        return np.floor(RAMP * (np.iinfo(kind).max * (1 - 1e-9))).astype(kind)
    top = 1000.0 if kind.kind == "f" else np.iinfo(kind).max * 1.9
    return ((RAMP - 0.5) * top).astype(kind)


@pytest.mark.parametrize(
    "options",
    [
        {"order": "<"},
        {"order": ">"},
        {"order": "<", "deflate": True},
        {"order": ">", "deflate": True},
        {"order": "<", "big": True},
        {"order": ">", "big": True},
        {"order": ">", "photometric": 0},
        {"order": "<", "deflate": True, "photometric": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]
)
def test_each_number_type_is_right(dtype: str, options: dict, tmp_path: Path) -> None:
    values = numbers(dtype)
    pixels = read(saved(tmp_path, tiff(values, **options))).pixels
    expected = RAMP if options.get("photometric", 1) else 1 - RAMP
    np.testing.assert_allclose(pixels, expected, atol=0.01 if values.itemsize == 1 else 0.001)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_each_orientation_is_right(
    orientation: int, deflate: bool, dtype: str, tmp_path: Path
) -> None:
    content = tiff(numbers(dtype), deflate=deflate, orientation=orientation)
    pixels = read(saved(tmp_path, content)).pixels
    expected = UPRIGHT[orientation](RAMP)
    assert pixels.shape == expected.shape and pixels.flags.c_contiguous
    low, high = pixels.min(), pixels.max()
    np.testing.assert_allclose((pixels - low) / (high - low), expected, atol=0.01)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "P", "1"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_colors_are_turned_as_well(
    mode: str, compression: str | None, orientation: int, tmp_path: Path
) -> None:
    shape = np.where(RAMP > 0.4, 255, 0).astype(np.uint8)
    image = Image.fromarray(shape).convert(mode)
    path = tmp_path / "x.tif"
    image.save(path, compression=compression, tiffinfo={274: orientation})
    expected = UPRIGHT[orientation](shape)
    np.testing.assert_allclose(read(path).pixels * 255, expected, atol=1e-4)
    picture = read_picture(path)
    assert picture.exif_orientation == orientation and picture.size == expected.shape


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_channels_are_told_apart(dtype: str, planar: bool, deflate: bool, tmp_path: Path) -> None:
    values = numbers(dtype)
    top = np.iinfo(values.dtype).max
    clear = np.full_like(values, top)
    clear[:10] = 0
    options = {"planar": planar, "deflate": deflate}

    def pixels(*channels: np.ndarray, **tags: int) -> np.ndarray:
        return read(saved(tmp_path, tiff(np.dstack(channels), **options, **tags))).pixels

    over_black = np.where(clear, RAMP, 0)
    rgb = (values, values, values)
    for result, expected in (
        (pixels(values, clear, extra=2), over_black),
        (pixels(values, clear, extra=0), RAMP),
        (pixels(*rgb, photometric=2), RAMP),
        (pixels(*rgb, clear, photometric=2, extra=2), over_black),
        (pixels(*rgb, clear, photometric=2), over_black),
        (pixels(*rgb, clear, photometric=2, extra=0), RAMP),
    ):
        np.testing.assert_allclose(result, expected, atol=0.006)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (RAMP.astype("c8"), "1 x 64-bit complex numbers"),
        (np.dstack([RAMP.astype("f4")] * 3), "3 x 32-bit floats"),
        (np.dstack([numbers("i2")] * 3), "3 x 16-bit signed integers"),
        (np.dstack([numbers("u4")] * 3), "3 x 32-bit integers"),
    ],
    ids=str,
)
def test_other_numbers_are_refused_by_their_name(
    values: np.ndarray, named: str, tmp_path: Path
) -> None:
    path = saved(tmp_path, tiff(values, photometric=1 if values.ndim == 2 else 2))
    with pytest.raises(CxrsegError, match=named) as caught:
        read(path)
    assert "save it as TIFF or PNG of 8- or 16-bit gray values" in caught.value.remedy


def test_packed_bits_are_right_or_refused(tmp_path: Path) -> None:
    packed = tiff(np.zeros((HEIGHT, WIDTH * 3 // 2), "u1"))
    level = (np.uint32(RAMP * 4095).reshape(HEIGHT, -1, 2) * [1 << 12, 1]).sum(axis=2)
    data = level.astype(">u4").view("u1").reshape(HEIGHT, -1, 4)[..., 1:].tobytes()
    packed = packed[:8] + data + packed[8 + len(data) :]
    for bits in (12, 10):
        content = told(told(packed, 256, WIDTH), 258, bits)
        path = saved(tmp_path, content)
        if bits == 12:
            np.testing.assert_allclose(read(path).pixels, RAMP, atol=0.001)
        else:
            with pytest.raises(CxrsegError, match="1 x 10-bit integers per pixel"):
                read(path)


def test_numbers_that_are_none_are_black(tmp_path: Path) -> None:
    values = numbers("f8")
    values[3, 3:6] = np.nan, np.inf, -np.inf
    pixels = read(saved(tmp_path, tiff(values))).pixels
    assert not pixels[3, 3:6].any()
    np.testing.assert_allclose(pixels[4:], RAMP[4:], atol=1e-6)


def told(content: bytes, tag: int, value: int) -> bytes:
    """Return a TIFF with another value of a tag."""
    entry = tag.to_bytes(2, "little") + b"\x03\0\x01\0\0\0"
    at = content.index(entry) + len(entry)
    return content[:at] + value.to_bytes(4, "little") + content[at + 4 :]


def test_size_counts_before_anything_is_decoded(tmp_path: Path) -> None:
    content = told(told(tiff(numbers("u2")), 256, 60_000), 257, 60_000)
    with pytest.raises(CxrsegError, match=f"at most {MAX_PIXELS // 1_000_000} million"):
        read(saved(tmp_path, content))


def test_channels_count_as_well(tmp_path: Path) -> None:
    channels = tiff(np.zeros((HEIGHT, WIDTH, 3), "f8"), deflate=True, extra=0)
    content = told(told(channels, 256, 9_000), 257, 9_000)
    # Two further channels, which would be left out.
    extra = (338).to_bytes(2, "little") + b"\x03\0"
    content = content.replace(extra + b"\x01\0\0\0", extra + b"\x02\0\0\0")
    with pytest.raises(CxrsegError, match="3 x 64-bit floats per pixel, 1853 MiB in all"):
        read(saved(tmp_path, content))


@pytest.mark.parametrize("deflate", [False, True])
def test_length_of_the_pixels_need_not_be_told(deflate: bool, tmp_path: Path) -> None:
    content = tiff(numbers("u2"), deflate=deflate)
    entry = (279).to_bytes(2, "little") + b"\x04\0\x01\0\0\0"
    at = content.index(entry)
    untold = content[: at + 8] + bytes(4) + content[at + 12 :]
    absent = content[:at] + (60_000).to_bytes(2, "little") + content[at + 2 :]
    for damaged in (untold, absent):
        np.testing.assert_allclose(read(saved(tmp_path, damaged)).pixels, RAMP, atol=0.001)


def test_a_page_past_the_end_is_none(tmp_path: Path) -> None:
    content = tiff(numbers("u1"))
    at = len(content) - 4
    assert content[at:] == bytes(4)
    damaged = content[:at] + (len(content) + 1000).to_bytes(4, "little")
    np.testing.assert_allclose(read(saved(tmp_path, damaged)).pixels, RAMP, atol=0.01)


def with_tag(content: bytes, tag: int, entry: bytes) -> bytes:
    """Return a TIFF with the twelve bytes of a tag replaced by others."""
    at = content.index(struct.pack("<H", tag) + b"\3\0\1\0\0\0")
    return content[:at] + entry + content[at + 12 :]


@pytest.mark.parametrize("kind", [1, 4, 6, 8, 9])
def test_photometric_of_any_integer_type(kind: int, tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    black, entry = tiff(BYTES), struct.pack("<HHII", 262, kind, 1, 1)
    path.write_bytes(black)
    expected = read(path).pixels
    path.write_bytes(with_tag(black, 262, entry))
    np.testing.assert_array_equal(read(path).pixels, expected)


def test_first_of_two_tags_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(with_tag(tiff(BYTES), 284, struct.pack("<HHII", 262, 3, 1, 0)))
    np.testing.assert_allclose(read(path).pixels, BYTES / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "tag", "reason"),
    [(11, 262, "262 is no integer"), (2, 258, "258 is no integer"), (3, 263, "black or white")],
)
def test_tags_that_leave_the_values_open_are_refused(
    kind: int, tag: int, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.tif"
    replaced = 262 if tag == 263 else tag
    path.write_bytes(with_tag(tiff(BYTES), replaced, struct.pack("<HHII", tag, kind, 1, 1)))
    with pytest.raises(CxrsegError, match=reason):
        read(path)


def test_two_photometric_interpretations_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(with_tag(tiff(BYTES), 262, struct.pack("<HHIHH", 262, 3, 2, 1, 0)))
    with pytest.raises(CxrsegError, match="262 has 2 values"):
        read(path)


@pytest.mark.parametrize(
    ("compression", "name"),
    [(34712, "JPEG 2000"), (33005, "JPEG 2000"), (50002, "JPEG XL"), (22610, "JPEG XR")],
)
def test_compression_that_is_not_read_is_named(compression: int, name: str, tmp_path: Path) -> None:
    entry = struct.pack("<HHIHH", 259, 3, 1, compression, 0)
    path = saved(tmp_path, with_tag(tiff(BYTES), 259, entry))
    reason = f"a TIFF compressed with {name}, which cannot be read; save it uncompressed"
    with pytest.raises(CxrsegError, match=reason):
        read(path)
