from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cxrseg.runtime import CxrsegError, Radiograph, find_images, read
from cxrseg.runtime.core.radiograph import to_unit
from cxrseg.runtime.readers.reading import count_pixels
from helpers.dicom import dicom_images
from helpers.own import own_image

RAMP = np.tile(np.linspace(0, 255, 60).astype(np.uint8), (40, 1))
RGB_RAMP = np.stack([RAMP, RAMP, RAMP], axis=2)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    ihdr = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff"])
def test_eight_bit_gray_is_exact(tmp_path: Path, suffix: str) -> None:
    radiograph = read(save(tmp_path / f"x.{suffix}", Image.fromarray(RAMP)))
    assert radiograph.pixels.dtype == np.float32
    assert radiograph.size == (40, 60)
    assert radiograph.spacing is None
    np.testing.assert_allclose(radiograph.pixels, RAMP / 255, atol=1e-6)


def test_jpeg_is_close(tmp_path: Path) -> None:
    radiograph = read(save(tmp_path / "x.jpg", Image.fromarray(RAMP), quality=95))
    np.testing.assert_allclose(radiograph.pixels, RAMP / 255, atol=0.05)
    assert radiograph.provenance["format"] == "JPEG"


@pytest.mark.parametrize("mode", ["1", "RGB", "RGBA", "LA", "L"])
def test_png_modes_agree_with_gray(tmp_path: Path, mode: str) -> None:
    black_white = np.where(RAMP > 100, 255, 0).astype(np.uint8)
    gray = black_white if mode == "1" else RAMP
    image = Image.fromarray(gray).convert(mode)
    radiograph = read(save(tmp_path / "x.png", image))
    np.testing.assert_allclose(radiograph.pixels, gray / 255, atol=1e-6)


def test_gray_palette_is_resolved(tmp_path: Path) -> None:
    image = Image.fromarray(255 - RAMP)
    image.putpalette([255 - i // 3 for i in range(768)])
    radiograph = read(save(tmp_path / "x.png", image))
    np.testing.assert_allclose(radiograph.pixels, RAMP / 255, atol=1e-6)


def test_palette_with_transparency_is_over_black(tmp_path: Path) -> None:
    image = Image.fromarray(np.where(RAMP > 100, 1, 0).astype(np.uint8))
    image.putpalette([200, 200, 200, 100, 100, 100])
    radiograph = read(save(tmp_path / "x.png", image, transparency=0))
    np.testing.assert_allclose(radiograph.pixels, np.where(RAMP > 100, 100, 0) / 255, atol=1e-6)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_composited_over_black(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RAMP).convert(mode)
    alpha = np.full(RAMP.shape, 255, np.uint8)
    alpha[:20] = 51
    image.putalpha(Image.fromarray(alpha))
    radiograph = read(save(tmp_path / "x.png", image))
    np.testing.assert_allclose(radiograph.pixels[20:], RAMP[20:] / 255, atol=1e-6)
    np.testing.assert_allclose(radiograph.pixels[:20], RAMP[:20] / 255 / 5, atol=0.003)


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk(tmp_path: Path, suffix: str) -> None:
    radiograph = read(save(tmp_path / f"x.{suffix}", Image.fromarray(RGB_RAMP).convert("CMYK")))
    np.testing.assert_allclose(radiograph.pixels, RAMP / 255, atol=0.06)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_kept(tmp_path: Path, suffix: str) -> None:
    deep = RAMP.astype(np.uint16) * 200 + 7
    radiograph = read(save(tmp_path / f"x.{suffix}", Image.fromarray(deep)))
    np.testing.assert_allclose(radiograph.pixels, deep / 65535, atol=1e-6)
    assert radiograph.provenance["bits"] == 16


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_tiff_is_turned_around(tmp_path: Path, dtype: type) -> None:
    top = np.iinfo(dtype).max
    stored = (RAMP.astype(np.float64) / 255 * top).astype(dtype)
    path = save(tmp_path / "x.tif", Image.fromarray(stored))
    # Pillow writes black-is-zero: the tag is turned in the file, the values stay.
    entry = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
    data = path.read_bytes()
    assert entry in data
    path.write_bytes(data.replace(entry, struct.pack("<HHIHH", 262, 3, 1, 0, 0)))
    np.testing.assert_allclose(read(path).pixels, 1 - stored / top, atol=1e-5)


def test_float_tiff_is_stretched_and_its_gaps_are_black(tmp_path: Path) -> None:
    values = RAMP.astype(np.float32) * 40 - 1000
    values[3, 3], values[4, 4] = np.nan, np.inf
    pixels = read(save(tmp_path / "x.tif", Image.fromarray(values))).pixels
    assert pixels[3, 3] == pixels[4, 4] == 0
    np.testing.assert_allclose(pixels[10:], RAMP[10:] / 255, atol=1e-5)


def test_thirty_two_bit_tiff_is_stretched(tmp_path: Path) -> None:
    values = RAMP.astype(np.int32) * 100_000
    pixels = read(save(tmp_path / "x.tif", Image.fromarray(values))).pixels
    np.testing.assert_allclose(pixels, RAMP / 255, atol=1e-5)


def test_exif_orientation_of_a_jpeg(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "x.jpg", Image.fromarray(RAMP), exif=exif, quality=95)
    radiograph = read(path)
    assert radiograph.size == (60, 40)
    np.testing.assert_allclose(radiograph.pixels, np.rot90(RAMP, -1) / 255, atol=0.05)


def test_reader_goes_by_content_not_by_name(tmp_path: Path) -> None:
    image = Image.fromarray(RAMP)
    buffer = io.BytesIO()
    image.save(buffer, "TIFF")
    path = tmp_path / "x.png"
    path.write_bytes(buffer.getvalue())
    assert read(path).provenance["format"] == "TIFF"


def encoded(suffix: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    # Noise, which does not compress, so that a cut always takes pixels away.
    noise = np.random.default_rng(0).integers(0, 256, RAMP.shape, dtype=np.uint8)
    Image.fromarray(noise).save(buffer, suffix, **options)
    return buffer.getvalue()


def gif() -> bytes:
    return encoded("GIF")


def pages() -> bytes:
    buffer = io.BytesIO()
    page = Image.fromarray(RAMP)
    page.save(buffer, "TIFF", save_all=True, append_images=[page])
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello, world" * 50, "not an image"),
        (bytes(128) + b"DICM" + bytes(100), "DICOM"),
        (gif(), "not an image"),
        (pages(), "several pages"),
        (encoded("PNG")[:200], "damaged"),
        (encoded("PNG")[:30], "damaged"),
        (encoded("JPEG")[:500], "damaged"),
        (encoded("TIFF")[:1000], "damaged"),
        (encoded("BMP")[:1000], "damaged"),
        (b"BM", "damaged"),
        (b"\xff\xd8\xff", "damaged"),
        (png_header(1, 1), "too small"),
        (png_header(10_000, 8), "too small"),
        (png_header(20_000, 20_000), "too large"),
        (png_header(12_000, 10_000), "too large"),
        (png_header(2**31 - 1, 2**31 - 1), "too large"),
    ],
)
def test_bad_file_is_told_in_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(CxrsegError) as info:
        read(path)
    assert reason in str(info.value)
    assert str(info.value).startswith(f"{path}: ")
    assert "\n" not in str(info.value)
    assert info.value.remedy


def test_missing_file_folder_and_device_are_refused(tmp_path: Path) -> None:
    for path, reason in [
        (tmp_path / "none.png", "no such file"),
        (tmp_path, "is a folder"),
        (Path("/dev/null"), "not a regular file"),
    ]:
        with pytest.raises(CxrsegError, match=reason):
            read(path)


def test_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    with path.open("wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(CxrsegError, match="file is too large"):
        read(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "dcm"])
def test_pixels_are_counted_by_the_header(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    if suffix == "dcm":
        dicom_images.save(dicom_images.make(), path)
        assert count_pixels(path) == dicom_images.PHANTOM.size
    else:
        save(path, Image.fromarray(RAMP))
        assert count_pixels(path) == RAMP.size
    path.write_bytes(path.read_bytes()[:20])
    assert count_pixels(path) == 0
    assert count_pixels(tmp_path / "none.png") == 0


def test_find_images(tmp_path: Path) -> None:
    for name in ["b.png", "A.JPG", "b.json", ".hidden.png"]:
        (tmp_path / name).write_bytes(b"x")
    for name in ["b_lungs.png", "b_overlay.png"]:
        own_image(tmp_path / name)
    for folder in ["sub.png", ".cache"]:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "c.png").write_bytes(b"x")
    missing = tmp_path / "missing.png"
    images = [tmp_path / name for name in ("A.JPG", "b.png", "sub.png/c.png")]
    assert find_images([missing, tmp_path]) == [missing, *images]


def test_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CxrsegError, match="no images"):
        find_images([tmp_path])


def check_reads_or_refuses(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        radiograph = read(path)
    except CxrsegError as error:
        assert "\n" not in str(error)
        return
    assert isinstance(radiograph, Radiograph)
    pixels = radiograph.pixels
    assert pixels.dtype == np.float32 and pixels.ndim == 2
    assert np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1


FUZZ = settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SEEDS = [
    encoded("PNG"),
    encoded("JPEG"),
    encoded("TIFF"),
    encoded("TIFF", compression="tiff_lzw"),
    encoded("BMP"),
]


@FUZZ
@given(st.sampled_from([b"", *(seed[:8] for seed in SEEDS)]), st.binary(max_size=300))
def test_random_bytes_are_read_or_refused(tmp_path: Path, magic: bytes, tail: bytes) -> None:
    check_reads_or_refuses(tmp_path / "fuzz", magic + tail)


@FUZZ
@given(st.sampled_from(SEEDS), st.data())
def test_damaged_images_are_read_or_refused(
    tmp_path: Path, seed: bytes, data: st.DataObject
) -> None:
    content = bytearray(seed)
    # The header is where damage is interesting, and it lies in the first bytes, or TIFF's last.
    near = st.one_of(
        st.integers(0, 120),
        st.integers(0, len(seed) - 1),
        st.integers(len(seed) - 150, len(seed) - 1),
    )
    for place in data.draw(st.lists(near, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(seed)), st.integers(1, len(seed))))
    check_reads_or_refuses(tmp_path / "fuzz", bytes(content[:end]))


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((2, 2), np.float32),
        np.full((2, 2), np.nan),
        np.array([[-np.finfo(np.float64).max, np.finfo(np.float64).max]]),
        np.array([[np.iinfo(np.int64).min, np.iinfo(np.int64).max]]),
        np.array([[True, False]]),
        np.array([[0, 65535]], dtype=">u2"),
    ],
)
def test_any_gray_values_end_in_the_unit_interval(values: np.ndarray) -> None:
    out = to_unit(values)
    assert out.dtype == np.float32
    assert np.isfinite(out).all() and out.min() >= 0 and out.max() <= 1
