from __future__ import annotations

import time
from pathlib import Path

import pytest

from helpers.dicom.dicom_outputs import WORDS, Write
from helpers.dicom.patient import STUDY, chest, references, xray

pytest.importorskip("highdicom", reason="needs the extra dicom")

# Some of these files are made wrong on purpose, which pydicom warns of while writing.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_deidentified_holds_no_word_of_the_patient(write: Write, xrays: Path) -> None:
    datasets = write("--deidentify")
    for path in (xrays / "x_lungs.dcm", xrays / "x_overlay.dcm", xrays / "x.json"):
        content = path.read_bytes()
        assert not [word for word in WORDS if word.encode() in content]
        assert time.strftime("%Y%m%d").encode() not in content
    seg, sc = datasets
    assert references(seg) == references(sc)
    assert seg.StudyInstanceUID == sc.StudyInstanceUID != STUDY
    assert seg.PatientID == sc.PatientID and seg.PatientID.startswith("ANON-")
    for dataset in datasets:
        assert dataset.PatientIdentityRemoved == "YES"
        assert dataset.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    # Another image of the study stays with it.
    other, _ = write("--deidentify", SOPInstanceUID="1.2.826.0.1.99.1.1.2")
    assert other.StudyInstanceUID == seg.StudyInstanceUID
    assert references(other)[1] != references(seg)[1]


def test_deidentified_runs_are_equal_to_the_byte(write: Write, xrays: Path) -> None:
    files = [xrays / "x_lungs.dcm", xrays / "x_overlay.dcm"]
    write("--deidentify")
    before = [path.read_bytes() for path in files]
    write("--deidentify")
    assert [path.read_bytes() for path in files] == before


def test_words_in_the_wrong_place_are_not_passed_on(write: Write, xrays: Path) -> None:
    write("--deidentify", PatientOrientation="JANE", LossyImageCompressionMethod="JANE")
    for name in ("x_lungs.dcm", "x_overlay.dcm"):
        assert b"JANE" not in (xrays / name).read_bytes()


@pytest.mark.parametrize("value", ["yes", "Y", "YES ", ["YES", "YES"], ["NO", "YES"], "JA", "?"])
def test_whatever_is_no_plain_no_may_be_burned_in(
    run_cxrseg, model, xrays, write: Write, value: object
) -> None:
    assert write(BurnedInAnnotation=value)[1].BurnedInAnnotation == "YES"
    for file in xrays.glob("x_*"):
        file.unlink()
    result = run_cxrseg(xrays / "x.dcm", "--format", "seg,sc", "--deidentify", *model)
    assert result.code == 1 and "does not say NO to burned-in words" in result.err
    assert list(xrays.glob("x_*")) == []


def test_burned_in_number_refuses_the_picture(run_cxrseg, model, xrays) -> None:
    dataset = chest()
    dataset.add_new("BurnedInAnnotation", "US", 1)
    dataset.save_as(xrays / "x.dcm", enforce_file_format=True)
    result = run_cxrseg(xrays / "x.dcm", "--format", "sc", "--deidentify", *model)
    assert result.code == 1 and "does not say NO to burned-in words" in result.err


@pytest.mark.parametrize("value", ["no", "NO ", ["NO", "no"], "", None])
def test_plain_no_is_passed_on(write: Write, value: object) -> None:
    overlay = write("--deidentify", BurnedInAnnotation=value)[1]
    assert overlay.get("BurnedInAnnotation") == ("NO" if value else None)


NUMBERS = {
    "a birth date": ["19700102", "4711"],
    "a number in exponents": "1e9",
    "a small number": "471.1",
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_free_numbers_are_not_passed_on(write: Write, kind: str) -> None:
    ratio = NUMBERS[kind]
    lossy = {"LossyImageCompression": "01", "LossyImageCompressionRatio": ratio}
    method = {"LossyImageCompressionMethod": "ISO_19700102"}
    for dataset in write("--deidentify", **lossy, **method):
        assert dataset.LossyImageCompression == "01"
        assert "LossyImageCompressionRatio" not in dataset
        assert "LossyImageCompressionMethod" not in dataset
    with_name = write(**lossy)[1].get("LossyImageCompressionRatio")
    assert with_name == (471 if kind == "a small number" else None)


def test_text_in_numbers_is_not_told(run_cxrseg, model, xrays) -> None:
    for keyword in ("Rows", "BitsAllocated", "PlanarConfiguration", "RescaleSlope"):
        dataset = chest()
        dataset["PixelData"].VR = "OW"
        dataset.add_new(keyword, "LO", "Doe^Jane")
        dataset.save_as(xrays / "x.dcm", enforce_file_format=True)
        result = run_cxrseg(xrays / "x.dcm", "--format", "json,seg,sc", "--deidentify", *model)
        assert "Doe" not in result.out + result.err
        for file in xrays.glob("x[._][jlo]*"):
            assert b"Doe" not in file.read_bytes()


@pytest.mark.parametrize("keyword", ["PhotometricInterpretation", "ViewPosition", "Modality"])
def test_text_in_codes_is_not_told(run_cxrseg, model, xrays, keyword: str) -> None:
    xray(xrays / "x.dcm", **{keyword: "JANE DOE"})
    result = run_cxrseg(xrays / "x.dcm", "--format", "json,seg,sc", "--deidentify", *model)
    assert "JANE" not in result.out + result.err
    assert (result.code == 1) == (keyword == "PhotometricInterpretation")
    for file in xrays.glob("x[._][jlo]*"):
        assert b"JANE" not in file.read_bytes()


def test_burned_in_words_are_told(run_cxrseg, model, xrays, write: Write) -> None:
    assert write(BurnedInAnnotation="YES")[1].BurnedInAnnotation == "YES"
    assert "BurnedInAnnotation" not in write(BurnedInAnnotation=None)[1]
    path = xray(xrays / "x.dcm", BurnedInAnnotation="YES")
    result = run_cxrseg(path, "--format", "seg,sc", "--deidentify", *model)
    assert (
        result.code == 1
        and "does not say NO to burned-in words" in result.err
        and len(result.errors) == 1
    )


def test_resuming_tells_deidentified_outputs_from_others(run_cxrseg, model, xrays) -> None:
    run = [xray(xrays / "x.dcm"), "--skip-existing", "--format", "json,seg", *model]
    assert "skipped" not in run_cxrseg(*run).out
    assert "skipped" in run_cxrseg(*run).out
    assert "skipped" not in run_cxrseg(*run, "--deidentify").out
    assert "skipped" in run_cxrseg(*run, "--deidentify").out
    assert "skipped" not in run_cxrseg(*run).out


def test_deidentify_needs_something_to_deidentify(run_cxrseg, model, xrays) -> None:
    result = run_cxrseg(xray(xrays / "x.dcm"), "--deidentify", *model)
    assert result.code == 2 and "--format" in result.err
