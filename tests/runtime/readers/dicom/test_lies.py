"""Images whose header lies of compression, bits and channels: what the stream says counts."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid

from cxrseg.runtime import CxrsegError, read
from helpers.dicom.damaged import element, file_of, item, pixel_data, with_syntax
from helpers.dicom.dicom_images import (
    codes,
    encoded,
    jpeg2000,
    levels,
    lossless_jpeg,
    make,
    rgb,
    rle,
    save,
    unit,
)

# Some of these files are made wrong on purpose, which pydicom warns of while writing.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")

JPEG_XL = "1.2.840.10008.1.2.4.110"
EIGHT, TWELVE = levels(8), levels(12)

STREAMS: dict[str, Callable[[NDArray[Any]], bytes]] = {
    "JPEG": lambda x: lossless_jpeg(x, 12, 1),
    "JPEG-LS": imagecodecs.jpegls_encode,
    "JPEG 2000": lambda x: jpeg2000(x, 12),
    "JPEG XL": lambda x: imagecodecs.jpegxl_encode(x, lossless=True, bitspersample=12),
    "RLE": lambda x: rle(x, 12),
}
"""What a stream is by its own marker -> its encoder."""

SYNTAXES = {
    "JPEG": uid.JPEGLosslessSV1,
    "JPEG-LS": uid.JPEGLSLossless,
    "JPEG 2000": uid.JPEG2000Lossless,
    "JPEG XL": JPEG_XL,
    "RLE": uid.RLELossless,
    "uncompressed": uid.ExplicitVRLittleEndian,
}


def read_bytes(folder: Path, content: bytes) -> Any:
    (folder / "x.dcm").write_bytes(content)
    return read(folder / "x.dcm")


@pytest.mark.parametrize("told", SYNTAXES)
@pytest.mark.parametrize("true", STREAMS)
def test_stream_is_decoded_by_its_own_marker(tmp_path: Path, true: str, told: str) -> None:
    dataset = make(TWELVE, 12, uid.JPEGLosslessSV1, STREAMS[true](TWELVE))
    radiograph = read_bytes(tmp_path, with_syntax(encoded(dataset), SYNTAXES[told]))
    np.testing.assert_allclose(radiograph.pixels, unit(TWELVE), atol=1e-6)
    assert radiograph.flags == ()
    assert radiograph.provenance.get("decoded_as") == (None if true == told else true)


@pytest.mark.parametrize("syntax", [uid.MPEG2MPML, "1.2.3.4.5.6.7"])
def test_unknown_syntax_of_a_known_stream(tmp_path: Path, syntax: str) -> None:
    dataset = make(TWELVE, 12, uid.JPEGLosslessSV1, STREAMS["JPEG"](TWELVE))
    radiograph = read_bytes(tmp_path, with_syntax(encoded(dataset), syntax))
    np.testing.assert_allclose(radiograph.pixels, unit(TWELVE), atol=1e-6)


@pytest.mark.skipif(
    not hasattr(imagecodecs, "htj2k_encode"), reason="this imagecodecs cannot write HTJ2K"
)
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("syntax", [uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K])
def test_high_throughput_jpeg_2000(read_made, bits: int, syntax: str) -> None:
    values = levels(bits)
    radiograph = read_made(values, bits, syntax, imagecodecs.htj2k_encode(values, reversible=True))
    np.testing.assert_allclose(radiograph.pixels, unit(values), atol=1e-6)
    assert "decoded_as" not in radiograph.provenance


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("in_box", [False, True])
@pytest.mark.parametrize("end", ["110", "111", "112"])
def test_jpeg_xl(tmp_path: Path, bits: int, in_box: bool, end: str) -> None:
    values = levels(bits)
    frame = imagecodecs.jpegxl_encode(
        values, lossless=True, bitspersample=bits, usecontainer=in_box
    )
    content = encoded(make(values, bits, uid.JPEG2000, frame))
    radiograph = read_bytes(tmp_path, with_syntax(content, f"1.2.840.10008.1.2.4.{end}"))
    np.testing.assert_allclose(radiograph.pixels, unit(values), atol=1e-6)
    assert str(radiograph.provenance["transfer_syntax"]).startswith("JPEG XL")


@pytest.mark.parametrize("shape", [(64, 64), (40, 48), (200, 100), (100, 200), (37, 300)])
def test_size_of_jpeg_xl_is_checked_before_it_is_decoded(tmp_path: Path, shape) -> None:
    frame = imagecodecs.jpegxl_encode(np.resize(EIGHT, shape), lossless=True)
    path = save(make(np.resize(EIGHT, shape), 8, uid.JPEG2000, frame), tmp_path / "x.dcm")
    assert read(path).size == shape
    path = save(make(EIGHT, 8, uid.JPEG2000, frame), path)
    with pytest.raises(CxrsegError, match="another size than the header says"):
        read(path)


def test_compressed_syntax_of_plain_pixels(tmp_path: Path) -> None:
    plain = element(0x7FE00010, "OW", TWELVE.tobytes())
    wrapped = pixel_data(item(b"") + item(TWELVE.tobytes()))
    for image in (plain, wrapped):
        for syntax in (uid.JPEG2000Lossless, uid.RLELossless, uid.ExplicitVRLittleEndian):
            content = with_syntax(file_of(make(TWELVE), image), syntax)
            radiograph = read_bytes(tmp_path, content)
            np.testing.assert_allclose(radiograph.pixels, unit(TWELVE), atol=1e-6)


def test_written_otherwise_than_told(tmp_path: Path) -> None:
    implicit, explicit, big = (
        encoded(make(TWELVE, 12, syntax))
        for syntax in (
            uid.ImplicitVRLittleEndian,
            uid.ExplicitVRLittleEndian,
            uid.ExplicitVRBigEndian,
        )
    )
    for content, told in (
        (implicit, uid.ExplicitVRLittleEndian),
        (implicit, uid.ExplicitVRBigEndian),
        (explicit, uid.ImplicitVRLittleEndian),
        (explicit, uid.DeflatedExplicitVRLittleEndian),
        (big, uid.ExplicitVRLittleEndian),
    ):
        radiograph = read_bytes(tmp_path, with_syntax(content, told))
        np.testing.assert_allclose(radiograph.pixels, unit(TWELVE), atol=1e-6)


@pytest.mark.parametrize("true", [*STREAMS, "uncompressed"])
@pytest.mark.parametrize("told", [8, 10, 16, 20, None])
def test_bits_are_those_of_the_pixels(read_made, true: str, told: int | None) -> None:
    frame = STREAMS[true](TWELVE) if true in STREAMS else None
    syntax = SYNTAXES[true] if true != "JPEG XL" else uid.JPEG2000
    high = None if told is None else told - 1
    lies: dict[str, object] = {"BitsStored": told, "HighBit": high}
    if told == 8:
        lies["BitsAllocated"] = 8
    radiograph = read_made(TWELVE, 12, syntax, frame, **lies)
    np.testing.assert_allclose(radiograph.pixels, unit(TWELVE), atol=1e-6)


def test_fewer_bits_than_told(read_made) -> None:
    for frame, syntax in ((None, uid.ExplicitVRLittleEndian), (rle(EIGHT, 8), uid.RLELossless)):
        radiograph = read_made(EIGHT, 16, syntax, frame, BitsAllocated=16)
        np.testing.assert_allclose(radiograph.pixels, unit(EIGHT), atol=1e-6)


@pytest.mark.parametrize("high", [11, 15, None])
@pytest.mark.parametrize("left", [False, True])
def test_values_lie_where_they_are(read_made, high: int | None, left: bool) -> None:
    values = (TWELVE << 4).astype("<u2") if left else TWELVE
    radiograph = read_made(values, 12, HighBit=high)
    np.testing.assert_allclose(radiograph.pixels, unit(TWELVE), atol=1e-6)


def test_overlay_in_unused_bits_is_no_tissue(read_made) -> None:
    # A letter, as old machines drew them.
    marked = TWELVE.copy()
    marked[20:60, 30:34] |= 1 << 12
    marked[20:24, 20:44] |= 1 << 13
    np.testing.assert_allclose(read_made(marked, 12).pixels, unit(TWELVE), atol=1e-6)


def test_sign_is_that_of_the_stream(read_made) -> None:
    signed = levels(12, signed=True)
    frame = jpeg2000(signed, 12)
    radiograph = read_made(signed, 12, uid.JPEG2000Lossless, frame, PixelRepresentation=0)
    np.testing.assert_allclose(radiograph.pixels, unit(signed), atol=1e-6)


def as_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def as_jpeg_2000(pixels: NDArray[np.uint8]) -> bytes:
    return imagecodecs.jpeg2k_encode(pixels, level=None, codecformat="j2k", reversible=True)


CHANNELS: dict[str, tuple[str, Callable[[NDArray[np.uint8]], bytes] | None, float]] = {
    "JPEG": (uid.JPEGBaseline8Bit, as_jpeg, 0.05),
    "JPEG 2000": (uid.JPEG2000Lossless, as_jpeg_2000, 1e-6),
    "JPEG-LS": (uid.JPEGLSLossless, imagecodecs.jpegls_encode, 1e-6),
    "JPEG XL": (uid.JPEG2000, lambda x: imagecodecs.jpegxl_encode(x, lossless=True), 1e-6),
    "uncompressed": (uid.ExplicitVRLittleEndian, None, 1e-6),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_equal_channels_are_one(read_made, name: str) -> None:
    syntax, encode, atol = CHANNELS[name]
    for photometric, values in (("MONOCHROME2", EIGHT), ("MONOCHROME1", 255 - EIGHT)):
        colors = rgb(values)
        content = {"PixelData": colors.tobytes()} if encode is None else {}
        radiograph = read_made(
            values,
            8,
            syntax,
            None if encode is None else encode(colors),
            PhotometricInterpretation=photometric,
            **content,
        )
        np.testing.assert_allclose(radiograph.pixels, unit(EIGHT), atol=atol)
        assert radiograph.flags == ()


@pytest.mark.parametrize("name", ["JPEG", "uncompressed"])
def test_one_channel_where_three_are_told(read_made, name: str) -> None:
    syntax, encode, atol = CHANNELS[name]
    three = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB"}
    radiograph = read_made(EIGHT, 8, syntax, encode and encode(EIGHT), **three)
    np.testing.assert_allclose(radiograph.pixels, unit(EIGHT), atol=atol)


def test_order_and_colors_of_channels(read_made) -> None:
    three = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}
    by_plane = np.moveaxis(rgb(EIGHT), 2, 0).tobytes()
    without_color = rgb(EIGHT)
    without_color[..., 1:] = 128
    for planar, data in ((0, by_plane), (1, rgb(EIGHT).tobytes()), (0, without_color.tobytes())):
        radiograph = read_made(rgb(EIGHT), 8, PixelData=data, PlanarConfiguration=planar, **three)
        np.testing.assert_allclose(radiograph.pixels, unit(EIGHT), atol=1e-6)


def test_halved_color(read_made) -> None:
    gray = np.full((200, 90), 128, np.uint8)
    pairs = np.stack([EIGHT[:, ::2], EIGHT[:, 1::2], gray, gray], axis=-1)
    told = {"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL_422"}
    radiograph = read_made(EIGHT, 8, PixelData=pairs.tobytes(), PlanarConfiguration=0, **told)
    np.testing.assert_allclose(radiograph.pixels, unit(EIGHT), atol=1e-6)


@pytest.mark.parametrize("name", CHANNELS)
def test_channels_that_differ_are_refused(tmp_path: Path, name: str) -> None:
    syntax, encode, _ = CHANNELS[name]
    colors = rgb(EIGHT)
    colors[..., 1] //= 2
    content = {"PixelData": colors.tobytes()} if encode is None else {}
    frame = None if encode is None else encode(colors)
    path = save(make(EIGHT, 8, syntax, frame, **content), tmp_path / "x.dcm")
    with pytest.raises(CxrsegError, match="in color"):
        read(path)


def test_wrong_photometric_interpretation_of_gray(read_made) -> None:
    for photometric in ("RGB", "YBR_FULL_422", None):
        radiograph = read_made(TWELVE, PhotometricInterpretation=photometric)
        np.testing.assert_allclose(radiograph.pixels, unit(TWELVE), atol=1e-6)
    assert codes(radiograph) == []


@pytest.mark.parametrize("keyword", ["BitsStored", "HighBit", "NumberOfFrames", "ViewPosition"])
def test_attributes_that_are_no_numbers_do_not_count(tmp_path: Path, keyword: str) -> None:
    expected = read(save(make(), tmp_path / "x.dcm"))
    dataset = make()
    dataset.add_new(keyword, "FD", [1.5, 2.5])
    np.testing.assert_array_equal(read(save(dataset, tmp_path / "x.dcm")).pixels, expected.pixels)
