from __future__ import annotations

import time
from pathlib import Path

import pytest

from helpers.dicom.dicom_outputs import WORDS, Write
from helpers.dicom.patient import STUDY, references, xray

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


def test_burned_in_words_are_told(run_cxrseg, model, xrays, write: Write) -> None:
    assert write(BurnedInAnnotation="YES")[1].BurnedInAnnotation == "YES"
    assert "BurnedInAnnotation" not in write(BurnedInAnnotation=None)[1]
    path = xray(xrays / "x.dcm", BurnedInAnnotation="YES")
    result = run_cxrseg(path, "--format", "seg,sc", "--deidentify", *model)
    assert result.code == 1 and "burned into" in result.err and len(result.errors) == 1


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
