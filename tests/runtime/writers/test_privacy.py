"""What of a patient reaches the outputs: in DICOM what the standard demands, elsewhere nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.datadict import DicomDictionary, dictionary_VR
from pydicom.dataset import Dataset

from cxrseg.runtime.writers.dicom_source import IDENTITY
from helpers.dicom.patient import STUDY, UNNEEDED, chest
from helpers.drawing.phantoms import blocks

pytest.importorskip("highdicom", reason="needs the extra dicom")

# Many values are wrong on purpose, which pydicom warns of while writing.
pytestmark = pytest.mark.filterwarnings("ignore")

SECRET, DAY, TIME, AGE = "Secret", "19310407", "112233", "094Y"
BY_VR = {
    **dict.fromkeys(("LO", "SH", "PN", "ST", "LT", "UT", "UC", "AE"), SECRET),
    **{"CS": SECRET.upper(), "DA": DAY, "TM": TIME, "DT": DAY + TIME, "AS": AGE, "UR": SECRET},
}
WORDS = [word.encode() for word in (SECRET, SECRET.upper(), DAY, TIME, AGE)]

# What makes an image, or whose wrong value refuses it.
NEEDED = {"Modality", "PhotometricInterpretation", "SpecificCharacterSet", "PixelPresentation"}


def secretive() -> Dataset:
    """Return an X-ray with a secret in every text and date element that the standard knows."""
    dataset = nobody()
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if tag >> 16 > 6 and vr in BY_VR and keyword and keyword not in NEEDED:
            dataset.add_new(tag, vr, BY_VR[vr])
    private = dataset.private_block(0x0011, SECRET, create=True)
    private.add_new(1, "LO", SECRET)
    item = Dataset()
    item.PatientName, item.PatientID = SECRET, SECRET
    dataset.OtherPatientIDsSequence = [item]
    dataset.ReferencedPatientSequence = [item]
    dataset.SourceImageSequence = [item]
    dataset.file_meta.SourceApplicationEntityTitle = SECRET
    dataset.preamble = SECRET.encode().ljust(128, b"\0")
    return dataset


def nobody() -> Dataset:
    """Return an X-ray that tells nothing of a patient."""
    return chest(**dict.fromkeys([*IDENTITY, *UNNEEDED]))


def save(dataset: Dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path


def told_in(content: bytes) -> list[bytes]:
    return [word for word in WORDS if word in content]


def holders(dataset: Dataset) -> set[str]:
    """Return the keywords of the elements that hold a secret, wherever they are."""
    found = set()

    def look(_: Dataset, element: pydicom.DataElement) -> None:
        if element.VR != "SQ" and told_in(str(element.value).encode()):
            found.add(element.keyword)

    dataset.walk(look)
    return found


def test_dicom_takes_what_the_standard_demands_and_nothing_else(
    run_cxrseg, model, xrays, tmp_path
) -> None:
    path = save(secretive(), xrays / "x.dcm")
    assert len(secretive()) > 1000 and len(told_in(path.read_bytes())) == len(WORDS)
    out = tmp_path / "out"
    options = ["-o", out, "--format", "png,json,seg,sc", "--csv", tmp_path / "all.csv"]
    result = run_cxrseg(path, *options, *model)
    assert (result.code, result.err) == (0, "")
    # Names come from the input's name alone.
    ends = ("_lungs.dcm", "_lungs.png", "_overlay.dcm", "_overlay.png", ".json")
    assert {file.name for file in out.iterdir()} == {f"x{end}" for end in ends}
    for end in ("_lungs.png", "_overlay.png", ".json"):
        assert told_in((out / f"x{end}").read_bytes()) == []
    assert told_in((tmp_path / "all.csv").read_bytes() + result.out.encode()) == []
    for end in ("_lungs.dcm", "_overlay.dcm"):
        dataset = pydicom.dcmread(out / f"x{end}")
        assert holders(dataset) == set(IDENTITY)
        assert dataset.preamble == bytes(128)
        assert told_in(str(dataset.file_meta).encode()) == []


def test_deidentified_takes_nothing(run_cxrseg, model, xrays) -> None:
    dataset = secretive()
    # Any other word refuses the picture.
    dataset.BurnedInAnnotation = "NO"
    path = save(dataset, xrays / "x.dcm")
    result = run_cxrseg(path, "--format", "png,json,seg,sc", "--deidentify", *model)
    assert (result.code, result.err) == (0, "")
    files = [file for file in xrays.iterdir() if file != path]
    assert len(files) == 5
    for file in files:
        content = file.read_bytes()
        assert told_in(content) == [] and STUDY.encode() not in content


def test_report_tells_the_name_of_the_file_and_no_folder(
    run_cxrseg, model, save_chest, tmp_path
) -> None:
    path = save_chest(tmp_path / SECRET / "x.png")
    assert run_cxrseg(path, *model).code == 0
    text = path.with_name("x.json").read_text()
    assert json.loads(text)["input"] == "x.png" and SECRET not in text


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_metadata_of_other_formats_stays_behind(run_cxrseg, model, xrays, suffix: str) -> None:
    image = Image.fromarray(blocks(121, 99))
    exif = Image.Exif()
    for tag in (0x010E, 0x013B, 0x8298):  # description, artist, copyright
        exif[tag] = SECRET
    options: dict[str, Any] = {"exif": exif}
    if suffix == "png":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_text("Patient", SECRET)
        options["pnginfo"].add_itxt("Software", SECRET)
    elif suffix == "jpg":
        options["comment"] = SECRET
    path = xrays / f"x.{suffix}"
    image.save(path, **options)
    assert SECRET.encode() in path.read_bytes()
    result = run_cxrseg(path, *model)
    assert (result.code, result.err) == (0, "")
    for file in xrays.iterdir():
        assert file == path or SECRET.encode() not in file.read_bytes()


# Any bytes at all where a name or a date is expected, and its type changed.
WRONG = st.binary(max_size=40).map(lambda tail: SECRET.encode() + tail)
TYPES = st.sampled_from(["", "DS", "IS", "FL", "US", "UI", "AT", "CS", "XX"])


def with_identity(values: dict[str, tuple[bytes, str]], japanese: bool) -> bytes:
    """Return an X-ray whose identity has these bytes and value representations."""
    dataset = nobody()
    if japanese:
        dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    for keyword in values:
        # A marker, to be replaced in the file: pydicom would not write such values.
        setattr(dataset, keyword, f"@{keyword}@")
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    for keyword, (value, vr) in values.items():
        marker = f"@{keyword}@".encode()
        at = content.index(marker)
        end = at + len(marker)
        kind = vr.encode() or content[at - 4 : at - 2]
        value = value[: len(marker)].ljust(len(marker))
        content = content[: at - 4] + kind + content[at - 2 : at] + value + content[end:]
    return content


@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(st.sampled_from(IDENTITY), st.tuples(WRONG, TYPES), min_size=1), st.booleans()
)
@example({"PatientName": (b"Secret^Jane", "FL")}, False)
@example({"PatientName": (b"Secret^Jane", "XX")}, False)
@example({"PatientID": (b"Secret", "US")}, False)
def test_identity_that_makes_no_sense_is_copied_or_refused_and_not_told(
    run_cxrseg, model, tmp_path: Path, values: dict[str, tuple[bytes, str]], japanese: bool
) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(with_identity(values, japanese))
    for file in tmp_path.glob("x_*"):
        file.unlink()
    result = run_cxrseg(path, "--format", "png,seg,sc", *model)
    assert told_in((result.out + result.err).encode()) == []
    assert "unexpected" not in result.err
    written = {file.name for file in tmp_path.glob("x_*")}
    if result.code == 0:
        assert written == {"x_lungs.dcm", "x_lungs.png", "x_overlay.dcm", "x_overlay.png"}
        dataset = pydicom.dcmread(tmp_path / "x_overlay.dcm")
        assert {keyword: dataset[keyword].VR for keyword in IDENTITY} == VRS
        np.testing.assert_array_equal(
            dataset.pixel_array, np.asarray(Image.open(tmp_path / "x_overlay.png"))
        )
    else:
        assert written == set() and len(result.errors) == 1


VRS = {keyword: dictionary_VR(keyword) for keyword in IDENTITY}
