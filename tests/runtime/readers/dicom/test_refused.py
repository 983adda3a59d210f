from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset

from cxrseg.runtime import CxrsegError, read
from cxrseg.runtime.readers.dicom import source
from helpers.dicom.damaged import DELIMITER, element, file_of, item, pixel_data, sequence
from helpers.dicom.dicom_images import SECRETS, codes, jpeg2000, levels, make, rgb, save, unit

# Some of these files are made wrong on purpose, which pydicom warns of while writing.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")


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


def floats(tag: int, dtype: str) -> Dataset:
    dataset = make(PixelData=None)
    dataset.add_new(tag, "OF" if dtype == "<f4" else "OD", levels(12).astype(dtype).tobytes())
    dataset.BitsAllocated = 8 * np.dtype(dtype).itemsize
    return dataset


REFUSED: dict[str, tuple[Callable[[], Dataset], str]] = {
    "frames": (frames, "holds 2 frames"),
    "color": (colored, "in color"),
    "no pixels": (lambda: make(PixelData=None, Modality="SR"), "holds no image"),
    "empty pixels": (lambda: make(PixelData=b""), "holds no image"),
    "floats": (lambda: floats(0x7FE00008, "<f4"), r"floating-point numbers \(Float Pixel Data\)"),
    "doubles": (lambda: floats(0x7FE00009, "<f8"), r"numbers \(Double Float Pixel Data\)"),
    "CT": (lambda: make(Modality="CT"), r"is a CT image \(CT\)"),
    "MR": (lambda: make(Modality="MR"), "is an MR image"),
    "mammogram": (lambda: make(Modality="MG"), "is a mammogram"),
    "too small": (lambda: make(levels(12)[:20]), "too small"),
    "too large": (lambda: make(Rows=60000, Columns=60000), "too large"),
    "too few bytes": (lambda: make(Rows=5000, Columns=5000), "damaged"),
    "one bit": (lambda: make(BitsAllocated=1, PixelData=bytes(4500)), "1 bits per value"),
    "no rows": (lambda: make(Rows=None), r"damaged \(Rows is missing\)"),
    "two widths": (lambda: make(Columns=[180, 90]), r"\(Columns is no number of pixels\)"),
    "no width": (lambda: make(Columns=0), r"\(Columns is no number of pixels\)"),
    "photometric": (lambda: make(PhotometricInterpretation="CMYK"), "damaged"),
    "MPEG": (
        lambda: make(frame=b"\0\0\1\xb3", syntax=uid.MPEG2MPML),
        r"compression \(MPEG2 Main Profile / Main Level\) is not supported",
    ),
    "not JPEG": (lambda: make(frame=b"no" * 50, syntax=uid.JPEGLosslessSV1), "is damaged"),
    "jpeg": (lambda: big_frames()["jpeg"], r"another size than the header says \(180 x 200\)"),
    "jls": (lambda: big_frames()["jls"], r"another size than the header says \(180 x 200\)"),
    "j2k": (lambda: big_frames()["j2k"], r"another size than the header says \(180 x 200\)"),
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


def test_inflated_bomb_is_refused(tmp_path: Path, monkeypatch) -> None:
    path = save(make(syntax=uid.DeflatedExplicitVRLittleEndian), tmp_path / "x.dcm")
    monkeypatch.setattr(source, "MAX_INFLATED", 10_000)
    with pytest.raises(CxrsegError, match="inflates to more than"):
        read(path)


def test_rle_that_expands_without_end_is_refused(tmp_path: Path) -> None:
    header = struct.pack("<16I", 1, 64, *[0] * 14)
    frame = header + b"\x81\0" * 500_000
    path = save(make(levels(8), 8, uid.RLELossless, frame), tmp_path / "x.dcm")
    with pytest.raises(CxrsegError, match="damaged"):
        read(path)


MANY: dict[str, Callable[[], bytes]] = {
    "items": lambda: element(0x00283010, "SQ", item(b"") * 1_000_000, 0xFFFFFFFF) + DELIMITER,
    "elements": lambda: element(0x00090010, "LO", b"") * 1_000_000,
    "delimiters": lambda: DELIMITER * 1_000_000,
    "images": lambda: pixel_data(item(b"1234")) * 500_000,
    "fragments": lambda: pixel_data(item(b"") * 1_000_000),
}


@pytest.mark.parametrize("name", MANY)
def test_endless_structures_are_given_up(tmp_path: Path, name: str) -> None:
    image = element(0x7FE00010, "OW", levels(12).tobytes())
    # The sequence delimiter makes what follows a damaged file, all of which is searched.
    (tmp_path / "x.dcm").write_bytes(file_of(make(), image, before=DELIMITER + MANY[name]()))
    with pytest.raises(CxrsegError, match="more than 1,000,000 elements"):
        read(tmp_path / "x.dcm")


def test_long_values_are_not_kept(tmp_path: Path) -> None:
    # A table of lookup tables that would take a gigabyte as objects.
    image = element(0x7FE00010, "OW", levels(12).tobytes())
    tables = sequence(0x00283010, item(b"") * 500_000)
    (tmp_path / "x.dcm").write_bytes(file_of(make(), image, before=tables))
    tracemalloc.start()
    try:
        radiograph = read(tmp_path / "x.dcm")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(radiograph.pixels, unit(levels(12)), atol=1e-6)
    assert peak < 20 << 20


def test_deep_nesting_is_passed(tmp_path: Path) -> None:
    # Sequences of undefined length inside each other, where a lookup table is expected.
    item = struct.pack("<HH", 0x0028, 0x3010) + b"SQ\0\0" + b"\xff" * 4
    item += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    path = save(make(), tmp_path / "x.dcm")
    data = path.read_bytes()
    at = data.index(struct.pack("<HH", 0x7FE0, 0x0010))
    path.write_bytes(data[:at] + item * 20_000 + data[at:])
    assert codes(read(path)) == ["damaged_but_read"]


def test_header_of_a_large_deflated_file_is_read(tmp_path: Path, monkeypatch) -> None:
    path = save(make(syntax=uid.DeflatedExplicitVRLittleEndian), tmp_path / "x.dcm")
    monkeypatch.setattr(source, "MAX_INFLATED_TEXT", 10_000)
    assert source.read_file(path, ["Modality", "Columns"]).dataset.Columns == 180
