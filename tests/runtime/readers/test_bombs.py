"""Small files that would take a decoder minutes or gigabytes are refused before it sees them."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom import uid

from cxrseg.runtime import CxrsegError, read
from cxrseg.runtime.core.radiograph import MAX_PIXELS
from cxrseg.runtime.readers.dicom import codecs
from cxrseg.runtime.readers.dicom.frame import Frame
from cxrseg.runtime.readers.jpeg import check_scans
from cxrseg.runtime.readers.jpeg2000 import check_parts
from helpers.bad import bombs
from helpers.dicom.dicom_images import make, save
from helpers.drawing.phantoms import draw


def dicom(folder: Path, stream: bytes, syntax: str, side: int = 256) -> Path:
    blank = np.zeros((side, side), np.uint8)
    return save(make(blank, 8, syntax, stream), folder / "x.dcm")


@pytest.fixture
def no_decoder(monkeypatch) -> None:
    def called(*_: object, **__: object) -> None:
        pytest.fail("a decoder was called")

    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", called)
    for name in ("jpeg8_decode", "jpeg2k_decode"):
        monkeypatch.setattr(imagecodecs, name, called)


@pytest.mark.usefixtures("no_decoder")
@pytest.mark.parametrize("progressive", [True, False])
@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("kind", ["jpg", "dcm"])
def test_scans(kind: str, ended: bool, progressive: bool, tmp_path: Path) -> None:
    stream = bombs.scans(200, progressive=progressive, ended=ended)
    path = tmp_path / "x.jpg"
    path.write_bytes(stream)
    if kind == "dcm":
        path = dicom(tmp_path, stream, uid.JPEGBaseline8Bit)
    with pytest.raises(CxrsegError, match=r"its JPEG has 2\d\d scans, at most 100 are accepted"):
        read(path)


def test_fewer_scans_of_a_large_picture() -> None:
    stream = bombs.scans(80)
    check_scans(stream, MAX_PIXELS // 5)
    with pytest.raises(ValueError, match="at most 20 are accepted"):
        check_scans(stream, MAX_PIXELS)


def test_scans_behind_a_segment_without_a_length_are_counted() -> None:
    stream = bombs.scans(200)
    # TEM stands alone; taken for a segment, it would hide what follows.
    hidden = stream[:2] + b"\xff\x01\xff\xff" + stream[2:]
    with pytest.raises(ValueError, match="scans"):
        check_scans(hidden, 256 * 256)


def test_progressive_jpeg_is_read(tmp_path: Path) -> None:
    image = draw(1, (256, 240)).image
    Image.fromarray(image).save(tmp_path / "x.jpg", progressive=True, quality=95)
    np.testing.assert_allclose(read(tmp_path / "x.jpg").pixels, image / 255, atol=0.1)


@pytest.mark.usefixtures("no_decoder")
@pytest.mark.parametrize(
    ("stream", "side", "reason"),
    [
        (bombs.precincts(0), 1024, r"its JPEG 2000 has \d+ precincts"),
        (bombs.precincts(0, in_tile=True), 1024, r"its JPEG 2000 has \d+ precincts"),
        (bombs.components(700), 256, "700 values per pixel are not supported"),
    ],
    ids=["precincts", "precincts of a tile", "components"],
)
def test_parts_of_jpeg_2000(stream: bytes, side: int, reason: str, tmp_path: Path) -> None:
    with pytest.raises(CxrsegError, match=reason):
        read(dicom(tmp_path, stream, uid.JPEG2000Lossless, side))


@pytest.mark.parametrize("in_tile", [True, False])
def test_jpeg_2000_with_precincts_is_read(in_tile: bool) -> None:
    stream = bombs.precincts(7, side=64, in_tile=in_tile)
    check_parts(stream)
    assert codecs.decode(Frame("JPEG 2000", stream), 64, 64, 1).shape == (64, 64)


def test_animation_in_jpeg_xl_is_not_decoded_as_a_whole() -> None:
    pictures = np.zeros((50, 64, 64), np.uint8)
    pictures[0, 8:] = 9
    stream = imagecodecs.jpegxl_encode(pictures, lossless=True, photometric="minisblack")
    np.testing.assert_array_equal(codecs.decode(Frame("JPEG XL", stream), 64, 64, 1), pictures[0])
