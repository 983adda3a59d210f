"""Plain pixels that begin like a compressed stream, and streams whose sign the header misstates."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import uid
from pydicom.encaps import encapsulate, itemize_fragment
from pydicom.uid import ImplicitVRLittleEndian

from cxrseg.runtime import CxrsegError, read
from cxrseg.runtime.readers.dicom.frame import FrameError, unwrap
from helpers.dicom.dicom_images import bare, encoded, jpeg2000, levels, make, unit

JPEG_XL = b"\xff\x0a"
STARTS = {
    "JPEG XL": JPEG_XL,
    "JPEG": b"\xff\xd8\xff\xc0",
    "JPEG 2000": b"\xff\x4f\xff\x51",
    "fragments": b"\xfe\xff\x00\xe0",
}


def beginning(start: bytes, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    out = values.copy()
    out.view(np.uint8).reshape(-1)[: len(start)] = list(start)
    return out


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", STARTS)
def test_plain_pixels_that_begin_like_a_stream(read_made, name: str, bits: int) -> None:
    values = beginning(STARTS[name], levels(bits))
    np.testing.assert_allclose(read_made(values, bits).pixels, unit(values), atol=1e-6)


@pytest.mark.parametrize("name", ["JPEG XL", "JPEG", "JPEG 2000"])
def test_plain_pixels_of_a_file_that_tells_of_compression(name: str, tmp_path: Path) -> None:
    values = beginning(STARTS[name], levels(12))
    content = encoded(make(values, 16))
    native, compressed = (x.encode() for x in (uid.ExplicitVRLittleEndian, uid.RLELossless))
    assert len(native) == len(compressed)
    path = tmp_path / "x.dcm"
    path.write_bytes(content.replace(native, compressed, 1))
    np.testing.assert_allclose(read(path).pixels, unit(values), atol=1e-6)


@pytest.mark.parametrize("name", ["JPEG XL", "JPEG"])
def test_plain_pixels_of_a_file_without_a_syntax(name: str, tmp_path: Path) -> None:
    values = beginning(STARTS[name], levels(16))
    path = tmp_path / "x.dcm"
    path.write_bytes(bare(make(values, 16, ImplicitVRLittleEndian)))
    np.testing.assert_allclose(read(path).pixels, unit(values), atol=1e-6)


def test_odd_number_of_plain_bytes(read_made) -> None:
    values = np.ascontiguousarray(levels(8)[:199, :179])
    values = beginning(JPEG_XL, values)
    pixels = read_made(values, 8, PixelData=values.tobytes() + b"\0").pixels
    np.testing.assert_allclose(pixels, unit(values), atol=1e-6)


@pytest.mark.parametrize("missing", [6, 400])
def test_plain_pixels_cut_short(missing: int, tmp_path: Path) -> None:
    values = beginning(JPEG_XL, levels(16))
    path = tmp_path / "x.dcm"
    path.write_bytes(encoded(make(values, 16))[:-missing])
    radiograph = read(path)
    assert [flag.code for flag in radiograph.flags] == ["damaged_but_read"]
    np.testing.assert_allclose(radiograph.pixels[:190], unit(values)[:190], atol=1e-3)


def test_bare_stream_is_known_by_more_than_its_first_bytes(read_made) -> None:
    values = levels(16)
    for stream in (imagecodecs.jpegxl_encode(values, lossless=True), jpeg2000(values, 16)):
        pixels = read_made(values, 16, PixelData=stream + bytes(len(stream) % 2)).pixels
        np.testing.assert_allclose(pixels, unit(values), atol=1e-6)


def test_fragment_that_begins_like_another_frame() -> None:
    stream = imagecodecs.jpegxl_encode(levels(12), lossless=True)
    second = JPEG_XL + bytes(200) + b"\xff\xd9"
    table = itemize_fragment(b"")
    for first in (stream[:100], jpeg2000(levels(12), 12)[:100]):
        value = table + b"".join(map(itemize_fragment, [first, second]))
        assert unwrap(value).data.startswith(first + JPEG_XL)


@pytest.mark.parametrize("encode", [imagecodecs.jpegxl_encode, imagecodecs.jpegls_encode])
def test_several_frames_are_told(encode) -> None:
    frame = encode(levels(8))
    with pytest.raises(FrameError, match="it holds 2 frames"):
        unwrap(encapsulate([frame, frame]))


def jpeg_ls(values: NDArray[np.uint16], _: int) -> bytes:
    return imagecodecs.jpegls_encode(values)


def jpeg_xl(values: NDArray[np.uint16], _: int) -> bytes:
    return imagecodecs.jpegxl_encode(values, lossless=True)


def htj2k(values: NDArray[np.uint16], bits: int) -> bytes:
    return imagecodecs.htj2k_encode(values, reversible=True)


STREAMS = {
    "JPEG 2000": (uid.JPEG2000Lossless, jpeg2000),
    "JPEG-LS": (uid.JPEGLSLossless, jpeg_ls),
    "JPEG XL": (uid.JPEG2000Lossless, jpeg_xl),
    **({"HTJ2K": (uid.HTJ2KLossless, htj2k)} if hasattr(imagecodecs, "htj2k_encode") else {}),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("bits", [12, 16])
def test_unsigned_stream_of_a_signed_header(read_made, name: str, bits: int) -> None:
    syntax, encode = STREAMS[name]
    values = levels(bits)
    pixels = read_made(values, bits, syntax, encode(values, bits), PixelRepresentation=1).pixels
    np.testing.assert_allclose(pixels, unit(values), atol=1e-6)


@pytest.mark.parametrize("name", STREAMS)
def test_twos_complements_in_a_stream_without_signs(read_made, name: str) -> None:
    syntax, encode = STREAMS[name]
    values = levels(12, signed=True)
    stream = encode((values.view("<u2") & 0xFFF).astype("<u2"), 12)
    np.testing.assert_allclose(
        read_made(values, 12, syntax, stream).pixels, unit(values), atol=1e-6
    )


def test_unsigned_jpeg_2000_above_the_sign(read_made) -> None:
    values = (levels(12) // 4 + 3000).astype("<u2")
    options = {"PixelRepresentation": 1, "WindowCenter": "3500", "WindowWidth": "1200"}
    pixels = read_made(values, 12, uid.JPEG2000Lossless, jpeg2000(values, 12), **options).pixels
    assert np.corrcoef(pixels.ravel(), unit(values).ravel())[0, 1] > 0.99


def test_jpeg_xl_of_another_size_is_named(read_made) -> None:
    stream = imagecodecs.jpegxl_encode(levels(8)[:100], lossless=True)
    with pytest.raises(CxrsegError, match="another size than the header says"):
        read_made(levels(8), 8, uid.JPEG2000Lossless, stream)
