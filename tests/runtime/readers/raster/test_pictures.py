"""Raster files as a viewer shows them: what masks are read from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.readers.raster import read_picture, read_raster

SIZE = (40, 50)
SHAPE = np.zeros(SIZE, np.uint8)
SHAPE[5:30, 10:20] = 1


def test_palette_is_resolved_to_colors(tmp_path: Path) -> None:
    image = Image.fromarray(1 - SHAPE)
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "m.png")
    pixels = read_picture(tmp_path / "m.png").pixels
    np.testing.assert_array_equal(pixels, np.repeat(SHAPE[..., None] * 255, 3, 2))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "16 bit"])
def test_alpha_is_kept(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    if mode == "16 bit":
        Image.fromarray(SHAPE.astype(np.uint16) * 500).save(path, transparency=0)
    elif mode == "P":
        image = Image.fromarray(SHAPE)
        image.putpalette([0, 0, 0, 255, 255, 255])
        image.save(path, transparency=0)
    else:
        image = Image.new(mode, SIZE[::-1], "white")
        image.putalpha(Image.fromarray(SHAPE * 255))
        image.save(path)
    alpha = read_picture(path).alpha
    assert alpha is not None
    np.testing.assert_array_equal(alpha, SHAPE * 255)


def test_opaque_picture_has_no_alpha(tmp_path: Path) -> None:
    Image.new("RGBA", SIZE[::-1], "white").save(tmp_path / "m.png")
    assert read_picture(tmp_path / "m.png").alpha is None


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_turned_as_the_radiograph_is(turn: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = turn
    path = tmp_path / f"m.{suffix}"
    Image.fromarray(SHAPE * 255).save(path, exif=exif)
    picture, radiograph = read_picture(path), read_raster(path)
    assert picture.exif_orientation == turn
    assert picture.size == radiograph.size
    np.testing.assert_allclose(picture.pixels / 255, radiograph.pixels, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_depth_is_kept(dtype: type, tmp_path: Path) -> None:
    stored = SHAPE.astype(dtype) * 2
    Image.fromarray(stored).save(tmp_path / "m.tif")
    pixels = read_picture(tmp_path / "m.tif").pixels
    assert pixels.dtype == dtype
    np.testing.assert_array_equal(pixels, stored)


def test_white_that_is_zero_is_turned_around(tmp_path: Path) -> None:
    path = tmp_path / "m.tif"
    deep = (1 - SHAPE).astype(np.uint16) * 65535
    Image.fromarray(deep).save(path, tiffinfo={262: 0})
    np.testing.assert_array_equal(read_picture(path).pixels, SHAPE * np.uint16(65535))
    Image.fromarray(deep.astype(np.float32)).save(path, tiffinfo={262: 0})
    with pytest.raises(CxrsegError, match=r"white is 0 .* save it as 8-bit PNG"):
        read_picture(path)


def test_pages_are_refused(tmp_path: Path) -> None:
    page = Image.fromarray(SHAPE * 255)
    page.save(tmp_path / "m.tif", save_all=True, append_images=[page])
    with pytest.raises(CxrsegError, match="several pages"):
        read_picture(tmp_path / "m.tif")


@pytest.mark.parametrize(("name", "lossy"), [("m.jpg", True), ("m.tif", False), ("m.png", False)])
def test_jpeg_is_lossy(name: str, lossy: bool, tmp_path: Path) -> None:
    image = Image.fromarray(SHAPE * 255)
    image.save(tmp_path / name)
    assert read_picture(tmp_path / name).lossy is lossy
    image.save(tmp_path / "jpeg.tif", compression="jpeg")
    assert read_picture(tmp_path / "jpeg.tif").lossy
