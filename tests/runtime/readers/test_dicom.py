from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.fileset import FileSet

from cxrseg.runtime import CxrsegError, Radiograph, Segmenter, find_images, read
from cxrseg.runtime.core.orientation import Orientation
from cxrseg.runtime.core.preprocess import window
from cxrseg.runtime.readers import READERS, codecs, dicom, polarity
from helpers import phantoms
from helpers.paths import DATA

# Some of these files are made wrong on purpose, which pydicom warns of while writing.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")

REAL = DATA / "dicom"

PHANTOM = phantoms.draw(1, (200, 180)).image
"""uint8 [200, 180], dense tissue bright."""

SECRETS = ("Doe^Jane", "ID-4711", "19700101", "Clinic of X", "1.2.826.0.1.3680043.8.498.42")


def levels(bits: int, signed: bool = False) -> NDArray[Any]:
    """Return the phantom with 2**bits levels, noise in its lowest bits."""
    noise = np.random.default_rng(0).normal(0, 2, PHANTOM.shape)
    values = np.clip(PHANTOM / 255 * (2**bits - 1) + noise, 0, 2**bits - 1).round()
    if signed:
        values -= 2 ** (bits - 1)
    return values.astype(f"<{'i' if signed else 'u'}{1 if bits <= 8 else 2}")


def unit(values: NDArray[Any]) -> NDArray[np.float64]:
    values = values.astype(np.float64)
    return (values - values.min()) / np.ptp(values)


def make(
    pixels: NDArray[Any] | None = None,
    bits: int = 12,
    syntax: str = uid.ExplicitVRLittleEndian,
    frame: bytes | None = None,
    **attributes: object,
) -> Dataset:
    """Return a DX image of a phantom; attributes that are None are left out."""
    pixels = levels(bits) if pixels is None else pixels
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.UID(syntax)
    dataset.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = SECRETS[4]
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = SECRETS[:3]
    dataset.InstitutionName = SECRETS[3]
    dataset.Modality = "DX"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = 8 * pixels.itemsize
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    big = syntax == uid.ExplicitVRBigEndian
    native = (pixels.astype(pixels.dtype.newbyteorder(">")) if big else pixels).tobytes()
    data = native if frame is None else encapsulate([frame])
    dataset.add_new("PixelData", "OB" if pixels.itemsize == 1 or frame else "OW", data)
    if frame is not None:
        dataset["PixelData"].is_undefined_length = True
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def read_made(tmp_path: Path) -> Callable[..., Radiograph]:
    def run(*args: Any, **options: Any) -> Radiograph:
        return read(save(make(*args, **options), tmp_path / "x.dcm"))

    return run


def codes(radiograph: Radiograph) -> list[str]:
    return [flag.code for flag in radiograph.flags]


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


def lossless_jpeg(values: NDArray[Any], bits: int, predictor: int) -> bytes:
    return imagecodecs.jpeg_encode(values, lossless=True, predictor=predictor, bitspersample=bits)


def jpeg2000(values: NDArray[Any], bits: int, level: int | None = None) -> bytes:
    return imagecodecs.jpeg2k_encode(
        values, level=level, codecformat="j2k", bitspersample=bits, reversible=level is None
    )


def rle(values: NDArray[Any], bits: int) -> bytes:
    dataset = make(values, bits)
    dataset.compress(uid.RLELossless, generate_instance_uid=False)
    return next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))


ENCODERS: dict[str, tuple[str, Callable[[NDArray[Any], int], bytes], float]] = {
    "JPEG lossless": (uid.JPEGLossless, lambda x, b: lossless_jpeg(x, b, 4), 0),
    "JPEG lossless SV1": (uid.JPEGLosslessSV1, lambda x, b: lossless_jpeg(x, b, 1), 0),
    "JPEG-LS": (uid.JPEGLSLossless, lambda x, b: imagecodecs.jpegls_encode(x), 0),
    "JPEG-LS near": (uid.JPEGLSNearLossless, lambda x, b: imagecodecs.jpegls_encode(x, level=2), 2),
    "JPEG 2000 lossless": (uid.JPEG2000Lossless, jpeg2000, 0),
    "RLE": (uid.RLELossless, rle, 0),
}


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


def bare(dataset: Dataset, implicit: bool = True, with_meta: bool = False) -> bytes:
    """Return the data set without preamble, and without file meta unless wanted."""
    buffer = io.BytesIO()
    meta = dataset.file_meta if with_meta else None
    del dataset.file_meta
    if meta is not None:
        pydicom.filewriter.write_file_meta_info(buffer, meta)
    pydicom.dcmwrite(buffer, dataset, implicit_vr=implicit, little_endian=True)
    return buffer.getvalue()


@pytest.mark.parametrize(("implicit", "with_meta"), [(True, False), (False, False), (False, True)])
@pytest.mark.parametrize("first", ["SOPClassUID", "SpecificCharacterSet", "ImageType"])
def test_file_without_preamble(tmp_path: Path, implicit: bool, with_meta: bool, first: str) -> None:
    dataset = make()
    if first == "SpecificCharacterSet":
        dataset.SpecificCharacterSet = "ISO_IR 100"
    elif first == "ImageType":
        dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    path = tmp_path / "IM0001"
    path.write_bytes(bare(dataset, implicit, with_meta))
    np.testing.assert_allclose(read(path).pixels, unit(levels(12)), atol=1e-6)
    assert find_images([tmp_path]) == [path]


def test_missing_transfer_syntax(tmp_path: Path) -> None:
    values = levels(8)
    dataset = make(values, 8, uid.JPEGLSLossless, imagecodecs.jpegls_encode(values))
    path = tmp_path / "x"
    path.write_bytes(bare(dataset, implicit=False))
    with pytest.raises(CxrsegError, match="does not tell its compression"):
        read(path)


def test_other_formats_and_text_are_not_taken_for_dicom() -> None:
    sniff = READERS[0].sniff
    assert READERS[0].title == "DICOM"
    for suffix in ("PNG", "JPEG", "TIFF", "BMP", "GIF"):
        for image in (Image.fromarray(PHANTOM), Image.fromarray(PHANTOM).convert("RGB")):
            buffer = io.BytesIO()
            image.save(buffer, suffix)
            assert not sniff(buffer.getvalue()[:132])
    for head in (b"", b"\x08", b"\x08\0\x05\0", b"\x02\0\0\0\xff\xff\xff\xff", "Ä text".encode()):
        assert not sniff(head)
    for encoding in ("ascii", "utf-16", "utf-16-be", "utf-16-le", "utf-32"):
        assert not sniff(("plain text, " * 20).encode(encoding)[:132])


def test_monochrome1_is_inverted(read_made) -> None:
    values = levels(12)
    negative = (4095 - values).astype("<u2")
    for shape in ({}, {"PresentationLUTShape": "INVERSE"}):
        radiograph = read_made(negative, PhotometricInterpretation="MONOCHROME1", **shape)
        np.testing.assert_allclose(radiograph.pixels, unit(values), atol=1e-6)
        assert radiograph.flags == ()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (None, lambda x: (x - (1999.5)) / 999 + 0.5),
        ("LINEAR", lambda x: (x - (1999.5)) / 999 + 0.5),
        ("LINEAR_EXACT", lambda x: (x - 2000) / 1000 + 0.5),
        ("SIGMOID", lambda x: 1 / (1 + np.exp(-4 * (x - 2000) / 1000))),
    ],
)
def test_first_window_is_applied(read_made, function: str | None, expected) -> None:
    values = levels(12)
    window = {"WindowCenter": ["2000", "100"], "WindowWidth": ["1000", "5"]}
    options = window | ({} if function is None else {"VOILUTFunction": function})
    shown = np.clip(expected(values.astype(float)), 0, 1)
    np.testing.assert_allclose(read_made(**options).pixels, unit(shown), atol=1e-5)
    negative = read_made(
        (4095 - values).astype("<u2"),
        PhotometricInterpretation="MONOCHROME1",
        RescaleSlope="-1",
        RescaleIntercept="4095",
        **options,
    )
    # The rescale turns values around once, MONOCHROME1 again; then the pixels say otherwise.
    assert codes(negative) == ["photometric_lies"]
    np.testing.assert_allclose(negative.pixels, unit(shown), atol=1e-5)


@pytest.mark.parametrize("width", ["0", "-5", "", "wide", "NaN"])
def test_window_that_means_nothing_is_ignored(tmp_path: Path, width: str) -> None:
    dataset = make(WindowCenter="0002000 ")
    dataset.add_new("WindowWidth", "LO", width)
    np.testing.assert_allclose(
        read(save(dataset, tmp_path / "x.dcm")).pixels, unit(levels(12)), atol=1e-6
    )


def test_window_that_leaves_nothing_is_ignored(read_made) -> None:
    radiograph = read_made(WindowCenter="60000", WindowWidth="10")
    np.testing.assert_allclose(radiograph.pixels, unit(levels(12)), atol=1e-6)


def table(first: int, entries: list[int], bits: int, signed: bool = False) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if signed else "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "US", entries)
    return item


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
def test_lookup_tables(read_made, keyword: str, bits: int) -> None:
    values = levels(12)
    entries = np.sqrt(np.linspace(0, 1, 3000)) * (2**bits - 1)
    entries = entries.astype(int)
    expected = entries[np.clip(values.astype(int) - 500, 0, 2999)]
    radiograph = read_made(**{keyword: [table(500, entries.tolist(), bits)]})
    np.testing.assert_allclose(radiograph.pixels, unit(expected), atol=1e-6)
    # A table goes before a window, and the window sees what the modality gave.
    both = read_made(**{keyword: [table(500, entries.tolist(), bits)]}, WindowCenter="1")
    np.testing.assert_array_equal(both.pixels, radiograph.pixels)


def test_empty_lookup_table_is_ignored(read_made) -> None:
    assert read_made(VOILUTSequence=[Dataset()]).size == PHANTOM.shape


def test_lookup_table_of_signed_values(read_made) -> None:
    values = levels(12, signed=True)
    entries = (np.linspace(0, 1, 4096) ** 2 * 65535).astype(int)
    expected = entries[values.astype(int) + 2048]
    radiograph = read_made(values, VOILUTSequence=[table(-2048, entries.tolist(), 16, True)])
    np.testing.assert_allclose(radiograph.pixels, unit(expected), atol=1e-6)


def test_table_goes_before_the_inversion(read_made) -> None:
    values = levels(12)
    entries = np.sqrt(np.linspace(0, 1, 4096)) * 4095
    shown = entries.astype(int)[4095 - values]
    radiograph = read_made(
        (4095 - values).astype("<u2"),
        PhotometricInterpretation="MONOCHROME1",
        VOILUTSequence=[table(0, entries.astype(int).tolist(), 12)],
    )
    np.testing.assert_allclose(radiograph.pixels, 1 - unit(shown), atol=1e-6)


@pytest.mark.parametrize("border", [0, 4095])
def test_burned_border_does_not_change_the_contrast(read_made, border: int) -> None:
    values = levels(12)
    framed = np.pad(values, ((30, 10), (20, 40)), constant_values=border)
    seen = window(read_made(framed).pixels, 0.5, 99.5)[30:-10, 20:-40]
    np.testing.assert_allclose(seen, window(read_made(values).pixels, 0.5, 99.5), atol=0.01)


def test_padding_is_black_and_does_not_count(read_made) -> None:
    values = np.maximum(levels(12, signed=True), -1900)
    padded = values.copy()
    padded[:20], padded[20:24] = -2000, -1990
    truth = unit(values[24:])
    for photometric, sign in (("MONOCHROME2", 1), ("MONOCHROME1", -1)):
        pixels = read_made(
            (padded * sign).astype("<i2"),
            PhotometricInterpretation=photometric,
            PixelPaddingValue=-2000 * sign,
            PixelPaddingRangeLimit=-1990 * sign,
        ).pixels
        assert (pixels[:24] == 0).all()
        np.testing.assert_allclose(pixels[24:], truth, atol=1e-3)


def test_image_of_padding_alone_is_kept(read_made) -> None:
    flat = np.full((100, 100), 7, "<u2")
    assert (read_made(flat, PixelPaddingValue=7).pixels == 0).all()


def rgb(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(values[:, :, None], 3, axis=2)


@pytest.mark.parametrize("kind", ["RGB", "YBR", "planar", "JPEG", "palette", "RLE"])
def test_gray_in_color_is_accepted(read_made, kind: str) -> None:
    gray = levels(8)
    pixels, options, atol = rgb(gray), {"SamplesPerPixel": 3, "PlanarConfiguration": 0}, 1e-6
    photometric, syntax, frame = "RGB", str(uid.ExplicitVRLittleEndian), None
    if kind == "YBR":
        pixels[:, :, 1:] = 128
        photometric, atol = "YBR_FULL", 0.01
    elif kind == "planar":
        data = np.moveaxis(pixels, 2, 0).tobytes()
        options |= {"PlanarConfiguration": 1, "PixelData": data}
    elif kind == "JPEG":
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
        photometric, syntax, frame = "YBR_FULL_422", uid.JPEGBaseline8Bit, buffer.getvalue()
        atol = 0.05
    elif kind == "RLE":
        plain = make(pixels, 8, PhotometricInterpretation="RGB", **options)
        plain.compress(uid.RLELossless, generate_instance_uid=False)
        frame = next(pydicom.encaps.generate_frames(plain.PixelData, number_of_frames=1))
        syntax = uid.RLELossless
    elif kind == "palette":
        pixels, photometric, options = gray, "PALETTE COLOR", {}
        entries = (np.arange(256) * 257).astype("<u2").tobytes()
        for color in ("Red", "Green", "Blue"):
            options[f"{color}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
            options[f"{color}PaletteColorLookupTableData"] = entries
    radiograph = read_made(
        pixels, 8, syntax, frame, PhotometricInterpretation=photometric, **options
    )
    np.testing.assert_allclose(radiograph.pixels, unit(gray), atol=atol)
    assert radiograph.size == gray.shape


def colored() -> Dataset:
    pixels = rgb(levels(8))
    pixels[:, :, 0] //= 2
    return make(
        pixels, 8, PhotometricInterpretation="RGB", SamplesPerPixel=3, PlanarConfiguration=0
    )


def big_frames() -> dict[str, Dataset]:
    """Return images whose compressed stream tells of far more pixels than the header."""
    values = levels(8)
    jpeg = bytearray(imagecodecs.jpeg_encode(values))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    jls = bytearray(imagecodecs.jpegls_encode(values))
    at = jls.index(b"\xff\xf7")
    jls[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    j2k = bytearray(jpeg2000(values, 8))
    at = j2k.index(b"\xff\x51")
    j2k[at + 6 : at + 14] = struct.pack(">II", 1 << 30, 1 << 30)
    return {
        "jpeg": make(values, 8, uid.JPEGBaseline8Bit, bytes(jpeg)),
        "jls": make(values, 8, uid.JPEGLSLossless, bytes(jls)),
        "j2k": make(values, 8, uid.JPEG2000Lossless, bytes(j2k)),
    }


def frames() -> Dataset:
    return make(np.stack([levels(12)[0:100]] * 2).reshape(200, 180), Rows=100, NumberOfFrames=2)


REFUSED: dict[str, tuple[Callable[[], Dataset], str]] = {
    "frames": (frames, "holds 2 frames"),
    "color": (colored, "in color"),
    "no pixels": (lambda: make(PixelData=None, Modality="SR"), "holds no image"),
    "empty pixels": (lambda: make(PixelData=b""), "holds no image"),
    "CT": (lambda: make(Modality="CT"), r"is a CT image \(CT\)"),
    "MR": (lambda: make(Modality="MR"), "is an MR image"),
    "mammogram": (lambda: make(Modality="MG"), "is a mammogram"),
    "too small": (lambda: make(levels(12)[:20]), "too small"),
    "too large": (lambda: make(Rows=60000, Columns=60000), "too large"),
    "too few bytes": (lambda: make(Rows=5000, Columns=5000), "damaged"),
    "one bit": (lambda: make(BitsAllocated=1, BitsStored=1, HighBit=0), "1 bits per value"),
    "bits": (lambda: make(BitsStored=20), "damaged"),
    "no rows": (lambda: make(Rows=None), "damaged"),
    "photometric": (lambda: make(PhotometricInterpretation="CMYK"), "damaged"),
    "MPEG": (
        lambda: make(frame=b"\0\0\1\xb3", syntax=uid.MPEG2MPML),
        r"compression \(MPEG2 Main Profile / Main Level\) is not supported",
    ),
    "not JPEG": (lambda: make(frame=b"no" * 50, syntax=uid.JPEGLosslessSV1), "is damaged"),
    "jpeg": (lambda: big_frames()["jpeg"], "not of the 180 x 200 pixels"),
    "jls": (lambda: big_frames()["jls"], "not of the 180 x 200 pixels"),
    "j2k": (lambda: big_frames()["j2k"], "not of the 180 x 200 pixels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(tmp_path: Path, capfd, name: str) -> None:
    build, reason = REFUSED[name]
    path = save(build(), tmp_path / "x.dcm")
    with pytest.raises(CxrsegError, match=reason) as info:
        read(path)
    assert str(info.value).startswith(f"{path}: ") and "\n" not in str(info.value)
    assert info.value.remedy
    assert not any(secret in str(info.value) for secret in SECRETS)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("modality", ["CR", "DX", "RG", "RF", "OT", "", "XYZ", None])
def test_projection_and_unknown_modalities_pass(read_made, modality: str | None) -> None:
    provenance = read_made(Modality=modality).provenance
    assert provenance.get("modality") == (
        modality if modality in ("CR", "DX", "RG", "RF", "OT") else None
    )


def test_missing_decoder_is_told(tmp_path: Path, monkeypatch) -> None:
    values = levels(8)
    frame = imagecodecs.jpegls_encode(values)
    path = save(make(values, 8, uid.JPEGLSLossless, frame), tmp_path / "x.dcm")
    monkeypatch.setattr(codecs, "find_spec", lambda name: None)
    with pytest.raises(CxrsegError, match="needs the library imagecodecs, which is missing"):
        read(path)


def test_inflated_bomb_is_refused(tmp_path: Path, monkeypatch) -> None:
    path = save(make(syntax=uid.DeflatedExplicitVRLittleEndian), tmp_path / "x.dcm")
    monkeypatch.setattr(dicom, "MAX_INFLATED", 10_000)
    with pytest.raises(CxrsegError, match="inflates to more than"):
        read(path)


def test_rle_that_expands_without_end_is_refused(tmp_path: Path) -> None:
    header = struct.pack("<16I", 1, 64, *[0] * 14)
    frame = header + b"\x81\0" * 500_000
    path = save(make(levels(8), 8, uid.RLELossless, frame), tmp_path / "x.dcm")
    with pytest.raises(CxrsegError, match="damaged"):
        read(path)


def test_deep_nesting_is_read_or_refused(tmp_path: Path) -> None:
    # Sequences of undefined length inside each other, where a lookup table is expected.
    item = struct.pack("<HH", 0x0028, 0x3010) + b"SQ\0\0" + b"\xff" * 4
    item += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    path = save(make(), tmp_path / "x.dcm")
    data = path.read_bytes()
    at = data.index(struct.pack("<HH", 0x7FE0, 0x0010))
    path.write_bytes(data[:at] + item * 20_000 + data[at:])
    with pytest.raises(CxrsegError, match=r"damaged|no image"):
        read(path)


SPACINGS = [
    ({}, None, ""),
    ({"ImagerPixelSpacing": [0.2, 0.1]}, (0.2, 0.1), "ImagerPixelSpacing (detector plane)"),
    (
        {"ImagerPixelSpacing": [0.2, 0.2], "PixelSpacing": [0.2, 0.2]},
        (0.2, 0.2),
        "ImagerPixelSpacing (detector plane)",
    ),
    (
        {
            "ImagerPixelSpacing": [0.2, 0.2],
            "PixelSpacing": [0.18, 0.18],
            "PixelSpacingCalibrationType": "FIDUCIAL",
        },
        (0.18, 0.18),
        "PixelSpacing (calibrated, FIDUCIAL)",
    ),
    (
        {"ImagerPixelSpacing": [0.2, 0.2], "EstimatedRadiographicMagnificationFactor": 1.25},
        (0.16, 0.16),
        "ImagerPixelSpacing / EstimatedRadiographicMagnificationFactor (patient)",
    ),
    (
        {"ImagerPixelSpacing": [0.2, 0.2], "EstimatedRadiographicMagnificationFactor": 0.5},
        (0.2, 0.2),
        "ImagerPixelSpacing (detector plane)",
    ),
    ({"PixelSpacing": [0.3, 0.3]}, (0.3, 0.3), "PixelSpacing (plane not told)"),
    (
        {"NominalScannedPixelSpacing": [0.175, 0.175]},
        (0.175, 0.175),
        "NominalScannedPixelSpacing (film)",
    ),
    ({"PixelSpacing": [0, 0]}, None, ""),
    ({"PixelSpacing": [-0.1, 0.1]}, None, ""),
    ({"PixelSpacing": [11, 11]}, None, ""),
    ({"PixelSpacing": ["nan", "nan"]}, None, ""),
    ({"PixelSpacing": 0.2}, None, ""),
]


@pytest.mark.parametrize(("attributes", "expected", "source"), SPACINGS)
def test_spacing_and_its_source(
    read_made, attributes: dict[str, object], expected: tuple[float, float] | None, source: str
) -> None:
    spacing = read_made(**attributes).spacing
    if expected is None:
        assert spacing is None
    else:
        assert spacing is not None and spacing.source == source
        assert (spacing.row, spacing.column) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"BodyPartExamined": "CHEST", "ViewPosition": "PA"}, []),
        ({"BodyPartExamined": "HAND"}, ["other_body_part"]),
        ({"BodyPartExamined": "Jane's"}, []),
        ({"ViewPosition": "LL"}, ["not_frontal_view"]),
        ({"ViewPosition": "LATERAL"}, ["not_frontal_view"]),
        ({"ViewPosition": "LAO"}, ["not_frontal_view"]),
        ({"PatientOrientation": ["A", "F"]}, ["not_frontal_view"]),
        ({"PatientOrientation": ["L", "F"]}, []),
        ({"PatientOrientation": ["R", "F"]}, ["turned"]),
        ({"PatientOrientation": ["L"]}, []),
        ({"PatientOrientation": ["L", "R"]}, []),
        ({"PresentationIntentType": "FOR PROCESSING"}, ["for_processing"]),
    ],
)
def test_doubts_about_the_header(
    read_made, attributes: dict[str, Any], expected: list[str]
) -> None:
    radiograph = read_made(**attributes)
    found = codes(radiograph)
    # Turned by its header alone, the phantom's own polarity is still seen.
    assert found == expected
    assert "Jane" not in str(radiograph.flags) + str(radiograph.provenance)


def test_oblique_orientation_counts_by_its_main_direction(read_made) -> None:
    radiograph = read_made(PatientOrientation=["LF", "FR"])
    assert radiograph.orientation == Orientation("L", "F")


@pytest.mark.parametrize("row", "LRFH")
@pytest.mark.parametrize("column", "LRFH")
def test_orientation_turns_and_turns_back(row: str, column: str) -> None:
    if (row in "LR") == (column in "LR"):
        with pytest.raises(ValueError):
            Orientation(row, column)  # type: ignore[arg-type]
        return
    lies = Orientation(row, column)  # type: ignore[arg-type]
    upright = np.array([["head right", "head left"], ["feet right", "feet left"], ["", ""]])
    stored = lies.stored(upright)
    np.testing.assert_array_equal(lies.upright(stored), upright)
    name = {"L": "left", "R": "right", "H": "head", "F": "feet"}
    last_of_row = stored[0, -1] or stored[-1, -1]
    if row in "LR":
        assert name[row] in (stored[0, -1] or stored[-1, -1])
    elif row == "H":
        assert "head" in last_of_row


def test_sides_are_the_patients_whatever_the_orientation(read_made, model_file, chest) -> None:
    segmenter = Segmenter(model_file(), "cpu", threads=1)
    pixels = chest(240, 160, left_lung=False).astype("<u2") * 16
    truth = segmenter.segment(read_made(pixels)).mask
    assert (truth == 1).any() and not (truth == 2).any()
    for lies in (Orientation(a, b) for a in "LR" for b in "FH"):
        for turned in (lies, Orientation(lies.column, lies.row)):
            stored = np.ascontiguousarray(turned.stored(pixels))
            radiograph = read_made(stored, PatientOrientation=[turned.row, turned.column])
            result = segmenter.segment(radiograph)
            assert result.mask.shape == stored.shape
            np.testing.assert_array_equal(turned.upright(result.mask), truth)
            np.testing.assert_array_equal(radiograph.pixels, read_made(stored).pixels)
            assert ("turned" in {flag.code for flag in result.flags}) is not turned.is_upright
    # The same pixels without the header's word are taken for upright: the sides change.
    mirrored = segmenter.segment(read_made(np.ascontiguousarray(pixels[:, ::-1])))
    assert (mirrored.mask == 2).any() and not (mirrored.mask == 1).any()


@pytest.mark.parametrize("seed", range(20))
def test_polarity_of_phantoms(seed: int) -> None:
    image = phantoms.draw(seed, (300, 260)).image.astype(np.float32) / 255
    score = polarity.polarity(image)
    assert score > 0.3
    assert polarity.polarity(1 - image) == pytest.approx(-score, abs=1e-3)
    # A border is no content, whatever its gray.
    for border in (0, 1):
        bordered = np.pad(image, 40, constant_values=border)
        assert polarity.polarity(bordered) == pytest.approx(score, abs=0.4)


@pytest.mark.parametrize("image", [np.zeros((50, 50)), np.eye(40), np.ones((32, 4000))])
def test_polarity_of_nothing_is_no_doubt(image: np.ndarray) -> None:
    assert polarity.polarity(image.astype(np.float32)) >= polarity.INVERTED


def test_lie_is_turned_around_and_flagged(read_made) -> None:
    values = levels(12)
    radiograph = read_made(values, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0)
    (flag,) = radiograph.flags
    assert flag.code == "photometric_lies" and "inverted" in flag.reason
    assert flag.value is not None and flag.value < polarity.INVERTED == flag.threshold
    inside = values > 0
    assert (radiograph.pixels[~inside] == 0).all()
    expected = (values - values[inside].min()) / np.ptp(values[inside].astype(float))
    np.testing.assert_allclose(radiograph.pixels[inside], expected[inside], atol=1e-6)
    # What is no frontal chest is not judged.
    other = read_made(values, PhotometricInterpretation="MONOCHROME1", BodyPartExamined="HAND")
    assert codes(other) == ["other_body_part"]


# Files and folders.


def test_reader_goes_by_content(tmp_path: Path) -> None:
    assert read(save(make(), tmp_path / "x.png")).provenance["format"] == "DICOM"


def test_folder_of_studies_is_walked(tmp_path: Path) -> None:
    for name in [
        "b/IM0002",
        "b/1.2.840.7",
        "b/x.DCM",
        "a/deep/y.ima",
        "a/z.dicom",
        "a/z.v2",
        "DICOMDIR",
        ".cache/q.dcm",
        ".hidden",
    ]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save(make(), path)
    (tmp_path / "README").write_text("no image")
    (tmp_path / "b" / "notes.txt").write_text("no image")
    (tmp_path / "x_lungs.png").write_bytes(b"")
    if os.name == "posix":
        (tmp_path / "b" / "loop").symlink_to(tmp_path)
        (tmp_path / "broken").symlink_to(tmp_path / "none")
        os.mkfifo(tmp_path / "pipe")
    expected = ["a/z.dicom", "a/z.v2", "a/deep/y.ima", "b/1.2.840.7", "b/IM0002", "b/x.DCM"]
    assert find_images([tmp_path]) == [tmp_path / name for name in expected]


def medium(folder: Path) -> Path:
    """Write a medium with two images and a DICOMDIR, as pydicom lays it out."""
    media = FileSet()
    for number in (1, 2):
        dataset = make(
            StudyInstanceUID=f"1.2.3.{number}",
            SeriesInstanceUID=f"1.2.3.{number}.1",
            SOPInstanceUID=f"1.2.3.{number}.1.1",
            StudyDate="20000101",
            StudyTime="120000",
            StudyID="1",
            SeriesNumber=1,
            InstanceNumber=1,
            AccessionNumber="",
        )
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        media.add(dataset)
    media.write(folder)
    return folder / "DICOMDIR"


def test_dicomdir_stands_for_its_images(tmp_path: Path) -> None:
    listing = medium(tmp_path / "cd")
    images = find_images([listing])
    assert len(images) == 2
    assert sorted(images) == sorted(find_images([tmp_path / "cd"]))
    assert all(read(path).size == PHANTOM.shape for path in images)
    renamed = tmp_path / "list.dcm"
    renamed.write_bytes(listing.read_bytes())
    with pytest.raises(CxrsegError, match="is a DICOMDIR"):
        read(renamed)
    assert find_images([tmp_path / "none" / "DICOMDIR"]) == [tmp_path / "none" / "DICOMDIR"]


@pytest.mark.parametrize("spell", [str.lower, str.title, "{}.".format, "{};1".format])
def test_dicomdir_finds_names_as_the_system_spells_them(
    tmp_path: Path, spell: Callable[[str], str]
) -> None:
    if os.name != "posix":
        pytest.skip("this system finds them itself")
    expected = find_images([medium(tmp_path / "cd")])
    # From the deepest up: a folder's new name must not move what is still to be renamed.
    for path in sorted((tmp_path / "cd").rglob("*"), reverse=True):
        path.rename(path.with_name(spell(path.name)))
    listing = tmp_path / "cd" / spell("DICOMDIR")
    images = find_images([listing])
    assert len(images) == len(expected) == 2 and not set(images) & set(expected)
    assert all(read(path).size == PHANTOM.shape for path in images)
    assert sorted(images) == sorted(
        Path(folder, name)
        for folder, _, names in os.walk(tmp_path / "cd")
        for name in names
        if Path(folder, name) != listing
    )


def test_dicomdir_takes_the_exact_name_first(tmp_path: Path) -> None:
    images = find_images([medium(tmp_path / "cd")])
    if os.name == "posix":
        for path in images:
            save(make(Modality="CT"), path.with_name(path.name.lower()))
    assert find_images([tmp_path / "cd" / "DICOMDIR"]) == images


@pytest.mark.parametrize(
    "target",
    [
        ["..", "X"],
        ["/ETC", "X"],
        ["../X"],
        ["C:\\X"],
        ["A", "..", "..", "X"],
        ["C:X"],
        [""],
        ["LINK"],
    ],
)
def test_dicomdir_never_leads_outside(tmp_path: Path, target: list[str]) -> None:
    save(make(), tmp_path / "X")
    folder = tmp_path / "cd"
    folder.mkdir()
    if target == ["LINK"]:
        if os.name != "posix":
            pytest.skip("makes a link")
        (folder / "LINK").symlink_to(tmp_path / "X")
    record = Dataset()
    record.DirectoryRecordType = "IMAGE"
    record.add_new("ReferencedFileID", "LO", target)
    dataset = make(PixelData=None)
    dataset.DirectoryRecordSequence = [record]
    with pytest.raises(CxrsegError, match=r"outside its folder|damaged|lists no images"):
        find_images([save(dataset, folder / "DICOMDIR")])


@pytest.mark.parametrize("content", [b"", b"text" * 100, bytes(128) + b"DICM" + bytes(50)])
def test_damaged_dicomdir_is_one_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "DICOMDIR").write_bytes(content)
    with pytest.raises(CxrsegError, match="DICOMDIR"):
        find_images([tmp_path / "DICOMDIR"])


# The command.


def test_command_on_a_dicom_file(run_cxrseg, model_file, xrays: Path) -> None:
    path = save(make(PixelSpacing=[0.5, 0.5], ViewPosition="LL"), xrays / "x.dcm")
    result = run_cxrseg(path, "--model", model_file(), "--device", "cpu")
    assert (result.code, result.err) == (0, "")
    assert "[flag: the file says that it is a lateral view]" in result.out
    outputs = [xrays / f"x{end}" for end in ("_lungs.png", "_overlay.png", ".json")]
    report = json.loads(outputs[2].read_text())
    assert report["size"] == {"height": 200, "width": 180}
    assert report["spacing_mm"]["source"] == "PixelSpacing (plane not told)"
    assert report["labels"][0]["area_mm2"] == report["labels"][0]["area_px"] * 0.25
    flag = report["flags"][0]
    assert flag["code"] == "not_frontal_view" and flag["value"] is None
    with Image.open(outputs[0]) as mask:
        assert mask.size == (180, 200)
    for output in outputs:
        assert not any(secret.encode() in output.read_bytes() for secret in SECRETS)


def test_command_on_studies_keeps_their_folders(
    run_cxrseg, model_file, save_chest, xrays: Path, tmp_path: Path
) -> None:
    for name in ("p1/IM0001", "p2/IM0001", "p2/1.2.3", "p2/1.2.4"):
        (xrays / name).parent.mkdir(exist_ok=True)
        save(make(), xrays / name)
    save(make(Modality="CT"), xrays / "p2" / "ct.dcm")
    save_chest(xrays / "top.png")
    out = tmp_path / "out"
    result = run_cxrseg(xrays, "-o", out, "--model", model_file(), "--device", "cpu")
    assert result.code == 1 and len(result.out.splitlines()) == 5
    (error,) = result.errors
    assert error.startswith(f"error: {xrays / 'p2' / 'ct.dcm'}: is a CT image")
    reports = sorted(str(x.relative_to(out)) for x in out.rglob("*.json"))
    expected = ["p1/IM0001", "p2/1.2.3", "p2/1.2.4", "p2/IM0001", "top"]
    assert reports == [str(Path(f"{name}.json")) for name in expected]
    again = run_cxrseg(xrays, "-o", xrays, "--model", model_file(), "--device", "cpu")
    assert len(again.out.splitlines()) == 5
    assert (xrays / "p2" / "1.2.3_lungs.png").exists()


def test_command_on_a_dicomdir(run_cxrseg, model_file, tmp_path: Path) -> None:
    listing = medium(tmp_path / "cd")
    missing = find_images([listing])[0]
    missing.unlink()
    out = tmp_path / "out"
    result = run_cxrseg(listing, "-o", out, "--model", model_file(), "--device", "cpu")
    assert result.code == 1 and len(result.out.splitlines()) == 1
    assert result.errors == [f"error: {missing}: no such file; check the name"]
    assert len(list(out.rglob("*.json"))) == 1


# Damage.


def encoded(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def seeds() -> list[bytes]:
    small = levels(12)[:40, :48].copy()
    eight = levels(8)[:40, :48].copy()
    tables = {"VOILUTSequence": [table(0, list(range(4096)), 12)], "RescaleSlope": "2"}
    found = [
        encoded(make(small, RescaleIntercept="-5", PixelPaddingValue=3, **tables)),
        encoded(make(small, WindowCenter="2000", WindowWidth="900", PatientOrientation=["R", "F"])),
        encoded(make(eight, 8, uid.DeflatedExplicitVRLittleEndian)),
        encoded(make(small, syntax=uid.ExplicitVRBigEndian, PixelSpacing=[0.1, 0.1])),
        bare(make(small)),
        bare(make(small), implicit=False),
    ]
    for syntax, encode, _ in ENCODERS.values():
        found.append(encoded(make(small, 12, syntax, encode(small, 12))))
    jpeg = imagecodecs.jpeg_encode(eight)
    found.append(encoded(make(eight, 8, uid.JPEGBaseline8Bit, jpeg)))
    jpeg = imagecodecs.jpeg_encode(small, bitspersample=12)
    found.append(encoded(make(small, 12, uid.JPEGExtended12Bit, jpeg)))
    return found


SEEDS = seeds()
FUZZ = settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def check_reads_or_refuses(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        radiograph = read(path)
    except CxrsegError as error:
        assert "\n" not in str(error)
        return
    pixels = radiograph.pixels
    assert pixels.dtype == np.float32 and pixels.ndim == 2
    assert np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1


def test_seeds_are_sound(tmp_path: Path) -> None:
    for seed in SEEDS:
        (tmp_path / "x").write_bytes(seed)
        assert read(tmp_path / "x").size == (40, 48)


@FUZZ
@given(st.sampled_from(SEEDS), st.data())
def test_damaged_files_are_read_or_refused(
    tmp_path: Path, seed: bytes, data: st.DataObject
) -> None:
    content = bytearray(seed)
    near = st.one_of(st.integers(132, 1200), st.integers(0, len(seed) - 1))
    for place in data.draw(st.lists(near, max_size=8)):
        content[place % len(seed)] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(seed)), st.integers(1, len(seed))))
    check_reads_or_refuses(tmp_path / "fuzz", bytes(content[:end]))


@FUZZ
@given(
    st.sampled_from([bytes(128) + b"DICM", b"\x08\0\x05\0CS", b"\x08\0\x05\0\x0a\0\0\0"]),
    st.binary(max_size=400),
)
def test_random_bytes_are_read_or_refused(tmp_path: Path, head: bytes, tail: bytes) -> None:
    check_reads_or_refuses(tmp_path / "fuzz", head + tail)


def test_damaged_tables_do_not_end_the_process(tmp_path: Path) -> None:
    values = levels(12)
    frame = lossless_jpeg(values, 12, 1)
    assert b"\xff\xc4" in frame
    for marker in range(0xC0, 0xD0):
        damaged = frame.replace(b"\xff\xc4", bytes([0xFF, marker]))
        content = encoded(make(values, 12, uid.JPEGLosslessSV1, damaged))
        check_reads_or_refuses(tmp_path / "x", content)


def test_damaged_files_are_quiet(tmp_path: Path, capfd) -> None:
    capfd.readouterr()
    for number, seed in enumerate(SEEDS):
        content = bytearray(seed)
        for place in np.random.default_rng(number).integers(140, len(seed), 40):
            content[place] ^= 0x55
        check_reads_or_refuses(tmp_path / "x", bytes(content))
        check_reads_or_refuses(tmp_path / "x", seed[: len(seed) * 2 // 3])
    assert capfd.readouterr() == ("", "")


def test_deflated_garbage_is_refused(tmp_path: Path) -> None:
    dataset = encoded(make(syntax=uid.DeflatedExplicitVRLittleEndian))
    cut = dataset.index(b"1.2.840.10008.1.2.1.99") + 22
    bomb = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    tail = bomb.compress(bytes(1 << 20)) + bomb.flush()
    for rest in (b"garbage" * 30, tail):
        (tmp_path / "x").write_bytes(dataset[:cut] + rest)
        with pytest.raises(CxrsegError):
            read(tmp_path / "x")


# Real files, where they are at hand.

REAL_FILES = [
    ("cr_monochrome1_jpeg2000.dcm", (1955, 1841), "PA", []),
    ("cr_monochrome2_jpeg_baseline.dcm", (1024, 1024), "PA", []),
    ("cr_mislabelled_monochrome1.dcm", (1024, 1024), "PA", ["photometric_lies"]),
    ("dx_monochrome2_implicit_vr.dcm", (1024, 1024), None, []),
]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not here")
@pytest.mark.parametrize(("name", "size", "view", "expected"), REAL_FILES)
def test_real_files(
    name: str, size: tuple[int, int], view: str | None, expected: list[str]
) -> None:
    result = Segmenter(device="cpu", threads=1).segment(REAL / name)
    assert result.mask.shape == size
    assert [flag.code for flag in result.flags] == expected
    assert result.provenance.get("view") == view
    assert all(0.08 < share < 0.35 for share in result.fraction.values())


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not here")
def test_real_lie_gives_the_mask_of_the_truth() -> None:
    segmenter = Segmenter(device="cpu", threads=1)
    truth, lie = (segmenter.segment(REAL / REAL_FILES[i][0]) for i in (1, 2))
    np.testing.assert_array_equal(lie.mask, truth.mask)
