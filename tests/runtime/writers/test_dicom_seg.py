from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset

from cxrseg.runtime import CxrsegError, find_images, read
from cxrseg.runtime.core.own_files import is_ours
from cxrseg.runtime.writers.dicom_source import SOP_CLASSES
from helpers.patient import (
    CR,
    DX,
    IDENTITY,
    INSTANCE,
    SC,
    SERIES,
    STUDY,
    UNNEEDED,
    references,
    xray,
)
from helpers.phantoms import blocks

hd = pytest.importorskip("highdicom", reason="needs the extra dicom")

# Some of these files are made wrong on purpose, which pydicom warns of while writing.
pytestmark = pytest.mark.filterwarnings("ignore")

WORDS = (
    *("Doe", "Jane", "4711", "19700102", "20210304", "101112", "ST-77", "ACC-123", "House"),
    *(STUDY, "Clinic", "Lane 5", "051Y", "Smith", "ANOTHER", "lives", "ROOM", "SN-55", "Bob"),
)


@pytest.fixture
def model(model_file) -> list[str]:
    return ["--model", str(model_file()), "--device", "cpu", "--threads", "1"]


Write = Callable[..., tuple[Dataset, Dataset]]


@pytest.fixture
def write(run_cxrseg, model, xrays: Path) -> Write:
    """Write all formats of one X-ray; return its segmentation and its secondary capture."""

    def run(*options: str, **attributes: Any) -> tuple[Dataset, Dataset]:
        path = xray(xrays / "x.dcm", **attributes)
        result = run_cxrseg(path, "--format", "png,json,seg,sc", *model, *options)
        assert result.code == 0
        assert not [line for line in result.errors if "; not assessed: " not in line]
        return pydicom.dcmread(xrays / "x_lungs.dcm"), pydicom.dcmread(xrays / "x_overlay.dcm")

    return run


def mask_png(folder: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(folder / "x_lungs.png"))


def test_formats_name_the_files(run_cxrseg, model, xrays, tmp_path) -> None:
    path = xray(xrays / "x.dcm")
    files = {
        "png": {"x_lungs.png", "x_overlay.png"},
        "json": {"x.json"},
        "seg": {"x_lungs.dcm"},
        "sc": {"x_overlay.dcm"},
        "SC, seg": {"x_lungs.dcm", "x_overlay.dcm"},
    }
    for formats, names in files.items():
        out = tmp_path / formats
        result = run_cxrseg(path, "--format", formats, "-o", out, *model)
        assert (result.code, result.err) == (0, "")
        assert {x.name for x in out.iterdir()} == names
        assert Path(result.out.split(" -> ")[1].split(" [flag")[0].strip()).name in names


@pytest.mark.parametrize("sop_class", SOP_CLASSES)
def test_segmentation_equals_the_mask(write: Write, xrays: Path, sop_class: str) -> None:
    modality = {CR: "CR", DX: "DX"}.get(uid.UID(sop_class), "OT")
    write(SOPClassUID=sop_class, Modality=modality)
    seg = hd.seg.segread(xrays / "x_lungs.dcm")
    truth = mask_png(xrays)
    assert truth.shape == (121, 99) and set(np.unique(truth)) == {0, 1, 2}
    np.testing.assert_array_equal(seg.pixel_array, np.stack([truth == 1, truth == 2]))
    labels = seg.get_pixels_by_source_instance([INSTANCE], combine_segments=True)
    np.testing.assert_array_equal(labels[0], truth)
    assert seg.segmentation_type is hd.seg.SegmentationTypeValues.BINARY
    assert seg.BitsAllocated == 1 and "FrameOfReferenceUID" not in seg
    assert "PixelMeasuresSequence" not in seg.SharedFunctionalGroupsSequence[0]


def test_segments_are_coded(write: Write, xrays: Path) -> None:
    seg, _ = write()
    report = json.loads((xrays / "x.json").read_text())
    sides = []
    for number, segment in enumerate(seg.SegmentSequence, start=1):
        assert segment.SegmentNumber == number and segment.SegmentAlgorithmType == "AUTOMATIC"
        (category,) = segment.SegmentedPropertyCategoryCodeSequence
        (kind,) = segment.SegmentedPropertyTypeCodeSequence
        (side,) = kind.SegmentedPropertyTypeModifierCodeSequence
        (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
        assert (category.CodeValue, category.CodingSchemeDesignator) == ("91723000", "SCT")
        assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("39607008", "SCT")
        assert algorithm.AlgorithmName == "cxrseg tiny" and "9.9" in algorithm.AlgorithmVersion
        assert report["model"]["sha256"] in algorithm.AlgorithmParameters
        sides.append((segment.SegmentLabel, side.CodeValue))
    assert sides == [("right lung", "24028007"), ("left lung", "7771000")]


def test_references_and_identity(write: Write) -> None:
    for dataset in write():
        assert references(dataset) == [(STUDY, SERIES), (DX, INSTANCE)]
        assert {k: str(dataset.get(k)) for k in IDENTITY} == IDENTITY
        assert not [keyword for keyword, x in UNNEEDED.items() if dataset.get(keyword) == x]
        assert dataset.Manufacturer == "cxrseg" and dataset.InstanceNumber == 1
        assert "not for diagnosis" in dataset.SeriesDescription
        assert list(dataset.PatientOrientation) == ["L", "F"]
    frame = write()[0].PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0]
    assert frame.SourceImageSequence[0].ReferencedSOPInstanceUID == INSTANCE


def test_overlay_is_the_picture(write: Write, xrays: Path) -> None:
    _, sc = write()
    np.testing.assert_array_equal(
        sc.pixel_array, np.asarray(Image.open(xrays / "x_overlay.png").convert("RGB"))
    )
    assert sc.PhotometricInterpretation == "RGB" and sc.BurnedInAnnotation == "NO"
    assert "Not a diagnostic device" in sc.ImageComments
    assert "cxrseg" in sc.DerivationDescription
    assert sc.SourceImageSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "121322"


def test_turned_image_keeps_its_layout(write: Write, xrays: Path) -> None:
    turned = np.ascontiguousarray(blocks(121, 99).T)
    seg, sc = write(pixels=turned, PatientOrientation=["F", "L"])
    assert (seg.Rows, seg.Columns) == (sc.Rows, sc.Columns) == turned.shape
    truth = mask_png(xrays)
    np.testing.assert_array_equal(seg.pixel_array, np.stack([truth == 1, truth == 2]))
    assert list(seg.PatientOrientation) == ["F", "L"]


def test_empty_lung_has_its_frame(write: Write) -> None:
    seg, _ = write(pixels=blocks(121, 99, left_lung=False))
    assert seg.NumberOfFrames == 2
    assert seg.pixel_array[0].any() and not seg.pixel_array[1].any()


def uids(dataset: Dataset) -> set[str]:
    found: set[str] = set()

    def collect(_: Dataset, element: pydicom.DataElement) -> None:
        if element.VR == "UI" and not uid.UID(str(element.value)).name[0].isalpha():
            found.add(str(element.value))

    dataset.walk(collect)
    return found


def test_same_run_same_uids_other_image_others(write: Write) -> None:
    first, again = write(), write()
    assert [uids(x) for x in first] == [uids(x) for x in again]
    other = write(SOPInstanceUID="1.2.826.0.1.99.1.1.2")
    whole = [x.SOPInstanceUID for x in (*first, *other)]
    assert len({*whole, *(x.SeriesInstanceUID for x in (*first, *other))}) == 8
    hidden = write("--deidentify")
    assert not {x.SOPInstanceUID for x in hidden} & {*whole}


def test_other_model_other_uids(write: Write, model_file) -> None:
    first = write()
    other = write("--model", str(model_file("other.onnx", card=None, labels=("right_lung",))))
    assert not {x.SOPInstanceUID for x in first} & {x.SOPInstanceUID for x in other}
    assert len(other[0].SegmentSequence) == 1


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


@pytest.mark.parametrize("format_", ["tiff", "png,,json", "png;seg", ""])
def test_unknown_format_is_wrong_usage(run_cxrseg, model, xrays, format_: str) -> None:
    result = run_cxrseg(xray(xrays / "x.dcm"), "--format", format_, *model)
    assert result.code == 2 and "png, json, seg, sc" in result.err


def test_input_that_is_no_dicom(run_cxrseg, model, save_chest, xrays) -> None:
    path = save_chest(xrays / "x.png")
    good = xray(xrays / "y.dcm")
    result = run_cxrseg(path, good, "--format", "png,seg", *model)
    assert result.code == 1 and len(result.out.splitlines()) == 1
    assert result.errors == [
        f"error: {path}: is no DICOM file, so seg would belong to no study;"
        " give the X-ray as DICOM, or --format png,json"
    ]
    assert not (xrays / "x_lungs.png").exists() and (xrays / "y_lungs.dcm").exists()


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
@pytest.mark.parametrize("value", [None, "", "no uid"])
def test_nothing_to_refer_to_is_refused(
    run_cxrseg, model, xrays, keyword: str, value: str | None
) -> None:
    path = xray(xrays / "x.dcm", **{keyword: value})
    result = run_cxrseg(path, "--format", "seg", *model)
    assert result.code == 1 and len(result.errors) == 1
    assert f"has no valid {keyword}" in result.err
    assert run_cxrseg(path, *model).code == 0


def test_unknown_kind_of_source_is_one_line(run_cxrseg, model, xrays) -> None:
    path = xray(xrays / "x.dcm", SOPClassUID="1.2.3.4")
    result = run_cxrseg(path, "--format", "seg,sc", *model)
    assert result.code == 1 and len(result.errors) == 1
    assert result.err.startswith(f"error: {path}: ") and "unexpected" not in result.err


def test_what_the_patient_has_not_stays_empty(write: Write) -> None:
    for dataset in write(**dict.fromkeys(IDENTITY), PatientOrientation=None):
        assert all(keyword in dataset and not dataset.get(keyword) for keyword in IDENTITY)
        assert not dataset.PatientOrientation


def test_without_preamble(run_cxrseg, model, xrays) -> None:
    path = xray(xrays / "x.dcm")
    dataset = pydicom.dcmread(path)
    bare = Dataset(dataset)
    bare.save_as(path, implicit_vr=True, little_endian=True)
    assert path.read_bytes()[128:132] != b"DICM"
    assert run_cxrseg(path, "--format", "seg", *model).code == 0
    assert pydicom.dcmread(xrays / "x_lungs.dcm").PatientName == "Doe^Jane"


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 192", "Łoś^Żaneta"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
    ],
)
def test_names_of_other_alphabets(write: Write, charset: Any, name: str) -> None:
    for dataset in write(SpecificCharacterSet=charset, PatientName=name):
        dataset.decode()
        assert str(dataset.PatientName) == name


def test_name_in_letters_that_the_file_does_not_declare(write: Write, xrays: Path) -> None:
    write(PatientName="M\xfcller")
    assert b"M\xfcller" in (xrays / "x.dcm").read_bytes()
    for name in ("x_lungs.dcm", "x_overlay.dcm"):
        assert b"M\xfcller" in (xrays / name).read_bytes()


def test_odd_values_are_copied_or_left(write: Write) -> None:
    with pydicom.config.disable_value_validation():
        odd = {"PatientBirthDate": "1970", "PatientSex": "W", "PatientName": "a^b^c^d^e^f^g"}
        for dataset in write(**odd):
            assert dataset.PatientSex == "W" and str(dataset.PatientName) == "a^b^c^d^e^f^g"


def test_own_outputs_are_no_inputs(write: Write, run_cxrseg, model, xrays: Path) -> None:
    write()
    assert find_images([xrays]) == [xrays / "x.dcm"]
    before = sorted(xrays.iterdir())
    result = run_cxrseg(xrays, "--format", "png,json,seg,sc", *model)
    assert (result.code, result.err) == (0, "") and sorted(xrays.iterdir()) == before
    every = run_cxrseg(*xrays.glob("*.dcm"), "--format", "seg", *model)
    assert every.code == 0 and len(every.out.splitlines()) == 1
    with pytest.raises(CxrsegError, match="a segmentation"):
        read(xrays / "x_lungs.dcm")
    with pytest.raises(CxrsegError, match="in color"):
        read(xrays / "x_overlay.dcm")


def test_files_of_others_are_kept(run_cxrseg, model, xrays) -> None:
    path = xray(xrays / "x.dcm")
    theirs = xray(xrays / "x_lungs.dcm", Manufacturer="Other")
    before = theirs.read_bytes()
    result = run_cxrseg(path, "--format", "png,seg", *model)
    assert result.code == 1 and "not written by cxrseg" in result.err
    assert theirs.read_bytes() == before and not is_ours(theirs)
    assert sorted(x.name for x in xrays.iterdir()) == ["x.dcm", "x_lungs.dcm"]


def test_without_highdicom_the_error_says_what_to_install(
    run_cxrseg, model, xrays, monkeypatch
) -> None:
    from cxrseg.runtime.core import errors

    monkeypatch.setattr(
        errors, "find_spec", lambda name: None if name == "highdicom" else find_spec(name)
    )
    result = run_cxrseg(xray(xrays / "x.dcm"), "--format", "seg", *model)
    assert (result.code, len(result.errors)) == (1, 1)
    assert 'pip install "cxrseg[dicom]"' in result.err and "highdicom" in result.err


def test_highdicom_is_loaded_when_asked_for_alone(model, xrays) -> None:
    path = xray(xrays / "x.dcm")
    code = (
        "import sys\nfrom cxrseg.runtime.cli import main\n"
        "try: main()\nexcept SystemExit as e: assert not e.code\n"
        "print('highdicom' in sys.modules)"
    )
    for formats, loaded in (("png,json", "False"), ("seg", "True")):
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), "--format", formats, *model],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stdout.splitlines()[-1] == loaded, done.stderr


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dicom3tools")
@pytest.mark.parametrize("options", [[], ["--deidentify"]])
@pytest.mark.parametrize("oriented", [True, False])
@pytest.mark.parametrize("sop_class", [CR, DX, SC])
def test_validator_finds_no_error(write: Write, xrays, options, oriented, sop_class) -> None:
    modality = {CR: "CR", DX: "DX", SC: "OT"}[uid.UID(sop_class)]
    lies = ["L", "F"] if oriented else None
    write(*options, SOPClassUID=sop_class, Modality=modality, PatientOrientation=lies)
    for name in ("x_lungs.dcm", "x_overlay.dcm"):
        done = subprocess.run(["dciodvfy", str(xrays / name)], capture_output=True, text=True)
        lines = (done.stdout + done.stderr).splitlines()
        assert not [line for line in lines if line.startswith("Error")]
        assert not [line for line in lines if "not present in standard" in line]


@pytest.mark.skipif(shutil.which("dcmdump") is None, reason="needs dcmtk")
def test_dcmtk_reads_the_files(write: Write, xrays: Path) -> None:
    write()
    for name, kind in (
        ("x_lungs.dcm", "SegmentationStorage"),
        ("x_overlay.dcm", "SecondaryCapture"),
    ):
        done = subprocess.run(["dcmdump", str(xrays / name)], capture_output=True, text=True)
        assert done.returncode == 0 and kind in done.stdout
        assert not [line for line in done.stderr.splitlines() if line[:2] in ("E:", "F:", "W:")]
