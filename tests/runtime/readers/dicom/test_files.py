from __future__ import annotations

import io
import json
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom import uid

from cxrseg.runtime import Segmenter, find_images, read
from cxrseg.runtime.readers import READERS
from helpers.dicom.dicom_images import PHANTOM, SECRETS, bare, levels, make, save, unit
from helpers.paths import DATA

# Some of these files are made wrong on purpose, which pydicom warns of while writing.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")

REAL = DATA / "dicom"


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
    # The stream tells its compression itself.
    np.testing.assert_allclose(read(path).pixels, unit(values), atol=1e-6)


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


def test_reader_goes_by_content(tmp_path: Path) -> None:
    assert read(save(make(), tmp_path / "x.png")).provenance["format"] == "DICOM"


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


REAL_FILES = [
    ("cr_monochrome1_jpeg2000.dcm", (1955, 1841), "PA", []),
    ("cr_monochrome2_jpeg_baseline.dcm", (1024, 1024), "PA", []),
    ("cr_mislabelled_monochrome1.dcm", (1024, 1024), "PA", ["photometric_lies"]),
    ("dx_monochrome2_implicit_vr.dcm", (1024, 1024), None, []),
]


@pytest.mark.xrays
@pytest.mark.parametrize(("name", "size", "view", "expected"), REAL_FILES)
def test_real_files(
    name: str, size: tuple[int, int], view: str | None, expected: list[str]
) -> None:
    result = Segmenter(device="cpu", threads=1).segment(REAL / name)
    assert result.mask.shape == size
    assert [flag.code for flag in result.flags] == expected
    assert result.provenance.get("view") == view
    assert all(0.08 < share < 0.35 for share in result.fraction.values())


@pytest.mark.xrays
def test_real_lie_gives_the_mask_of_the_truth() -> None:
    segmenter = Segmenter(device="cpu", threads=1)
    truth, lie = (segmenter.segment(REAL / REAL_FILES[i][0]) for i in (1, 2))
    np.testing.assert_array_equal(lie.mask, truth.mask)
