from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from cxrseg.runtime import CxrsegError, find_images, read
from cxrseg.runtime.files.own_files import is_ours
from helpers.dicom.damaged import element, even, file_of, item, pixel_data, sequence
from helpers.dicom.dicom_outputs import Write, uids
from helpers.dicom.patient import (
    DX,
    IDENTITY,
    INSTANCE,
    SERIES,
    STUDY,
    UNNEEDED,
    chest,
    references,
    xray,
)

pytest.importorskip("highdicom", reason="needs the extra dicom")

# Some of these files are made wrong on purpose, which pydicom warns of while writing.
pytestmark = pytest.mark.filterwarnings("ignore")


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
    assert (result.code, result.err) == (0, "")
    assert sorted(xrays.iterdir()) == before
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


DAMAGED = {
    "behind the identity": (0x00880200, True),
    "before the identity": (0x00081140, False),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_identity_is_taken_from_a_sound_header_alone(run_cxrseg, model, xrays, name: str) -> None:
    tag, is_taken = DAMAGED[name]
    # Of another patient, in a sequence whose length is wrong.
    items = item(element(0x00100010, "PN", b"Roe^Rick"))
    broken = sequence(tag, items, -8)
    dataset = chest()
    image = element(0x7FE00010, "OW", dataset.PixelData)
    side = {"before": broken} if is_taken else {"early": broken}
    (xrays / "x.dcm").write_bytes(file_of(dataset, image, **side))
    result = run_cxrseg(xrays / "x.dcm", "--format", "png,seg", *model)
    assert "Roe" not in result.out + result.err
    if is_taken:
        assert result.code == 0 and "lengths of its items" in result.out
        assert pydicom.dcmread(xrays / "x_lungs.dcm").PatientName == "Doe^Jane"
    else:
        assert result.code == 1 and "cannot be told for sure" in result.err
        assert list(xrays.glob("x_*")) == []


def test_end_of_the_image_does_not_matter_for_identity(run_cxrseg, model, xrays) -> None:
    dataset = chest()
    pixels = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns)
    frame = imagecodecs.jpeg2k_encode(
        pixels, level=None, codecformat="j2k", bitspersample=12, reversible=True
    )
    content = file_of(dataset, pixel_data(item(b"") + item(even(frame)), b""))
    (xrays / "x.dcm").write_bytes(content)
    result = run_cxrseg(xrays / "x.dcm", "--format", "seg", *model)
    assert result.code == 0 and "its sequence delimiter is missing" in result.out
    assert pydicom.dcmread(xrays / "x_lungs.dcm").PatientName == "Doe^Jane"
