from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom import uid

from cxrseg.runtime import CxrsegError, read
from cxrseg.runtime.readers.dicom import codecs
from helpers.dicom.dicom_images import ENCODERS, PHANTOM, jpeg2000, levels, make, save, unit

# Some of these files are made wrong on purpose, which pydicom warns of while writing.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")

NATIVE = [
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
]


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (16, False), (16, True)])
def test_native_syntaxes_are_exact(read_made, syntax: str, bits: int, signed: bool) -> None:
    values = levels(bits, signed)
    radiograph = read_made(values, bits, syntax)
    assert radiograph.pixels.dtype == np.float32 and radiograph.size == PHANTOM.shape
    np.testing.assert_allclose(radiograph.pixels, unit(values), atol=1e-6)
    assert radiograph.provenance["format"] == "DICOM"
    assert radiograph.provenance["bits"] == bits
    assert radiograph.spacing is None and radiograph.flags == ()


def test_thirty_two_bits_allocated(read_made) -> None:
    values = levels(16).astype("<u4")
    np.testing.assert_allclose(read_made(values, 16).pixels, unit(values), atol=1e-6)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_compressed_syntaxes(read_made, name: str, bits: int) -> None:
    syntax, encode, error = ENCODERS[name]
    values = levels(bits)
    radiograph = read_made(values, bits, syntax, encode(values, bits))
    atol = error / np.ptp(values.astype(float)) * 2 + 1e-6
    np.testing.assert_allclose(radiograph.pixels, unit(values), atol=atol)
    assert radiograph.provenance["transfer_syntax"] == uid.UID(syntax).name


@pytest.mark.parametrize("name", ["JPEG lossless SV1", "JPEG-LS", "JPEG 2000 lossless", "RLE"])
@pytest.mark.parametrize("bits", [12, 16])
def test_signed_values_compressed(read_made, name: str, bits: int) -> None:
    syntax, encode, _ = ENCODERS[name]
    values = levels(bits, signed=True)
    # JPEG and JPEG-LS know no sign: the bits of the two's complement go in.
    plain = values if name in ("JPEG 2000 lossless", "RLE") else values.view("<u2")
    if name == "JPEG lossless SV1":
        plain = plain & (2**bits - 1)
    radiograph = read_made(values, bits, syntax, encode(plain, bits))
    np.testing.assert_allclose(radiograph.pixels, unit(values), atol=1e-6)


@pytest.mark.parametrize(
    ("syntax", "bits"),
    [(uid.JPEGBaseline8Bit, 8), (uid.JPEGExtended12Bit, 8), (uid.JPEGExtended12Bit, 12)],
)
def test_lossy_jpeg(read_made, syntax: str, bits: int) -> None:
    values = levels(bits)
    frame = imagecodecs.jpeg_encode(values, level=95, bitspersample=bits)
    np.testing.assert_allclose(
        read_made(values, bits, syntax, frame).pixels, unit(values), atol=0.06
    )


def test_lossy_jpeg_2000(read_made) -> None:
    values = levels(16)
    radiograph = read_made(values, 16, uid.JPEG2000, jpeg2000(values, 16, level=60))
    np.testing.assert_allclose(radiograph.pixels, unit(values), atol=0.03)


def test_unused_bits_and_high_bit(read_made) -> None:
    values = levels(12)
    # An overlay once stood in the unused bits; other machines fill from the top.
    noisy = values | (np.random.default_rng(0).integers(0, 16, values.shape) << 12).astype("<u2")
    np.testing.assert_allclose(read_made(noisy, 12).pixels, unit(values), atol=1e-6)
    signed = levels(12, signed=True)
    # Nor need the sign reach into them.
    cut = (signed.view("<u2") & 0xFFF).view("<i2")
    np.testing.assert_allclose(read_made(cut, 12).pixels, unit(signed), atol=1e-6)
    high = read_made((values << 4).astype("<u2"), 12, HighBit=15)
    np.testing.assert_allclose(high.pixels, unit(values), atol=1e-6)
    assert high.provenance["bits"] == 12


def test_missing_decoder_is_told(tmp_path: Path, monkeypatch) -> None:
    values = levels(8)
    frame = imagecodecs.jpegls_encode(values)
    path = save(make(values, 8, uid.JPEGLSLossless, frame), tmp_path / "x.dcm")
    monkeypatch.setattr(codecs, "find_spec", lambda name: None)
    with pytest.raises(CxrsegError, match="needs the library imagecodecs, which is missing"):
        read(path)
