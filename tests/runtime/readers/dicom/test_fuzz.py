"""DICOM files of any structure are read, segmented and written, or refused."""

from __future__ import annotations

from pathlib import Path

from cxrseg.runtime import CxrsegError, read
from cxrseg.runtime.readers.folders import ImageFile, scan
from helpers.fuzz.dicoms import dicom_files
from helpers.fuzz.listings import IMAGES, dicomdirs
from helpers.trials.answers import asked, check_outputs, check_radiograph, check_refusal
from helpers.trials.trial import fuzzed


@fuzzed(dicom_files())
def test_dicom_files(case: bytes, home: Path) -> bool:
    path = home / "x.dcm"
    path.write_bytes(case)
    radiograph = asked(lambda: read(path))
    if radiograph is None:
        return False
    check_radiograph(radiograph)
    check_outputs(radiograph, path, case, ("png", "json", "seg", "sc"))
    return True


@fuzzed(dicomdirs())
def test_dicomdirs(case: bytes, home: Path) -> bool:
    """A listing gives images below its folder, and an error for each that is not."""
    medium = home / "medium"
    for name in IMAGES:
        image = medium / name.replace("\\", "/")
        image.parent.mkdir(parents=True, exist_ok=True)
        image.touch()
    (home / "x.dcm").touch()
    listing = medium / "DICOMDIR"
    listing.write_bytes(case)
    found = asked(lambda: list(scan(listing))) or []
    images = [each for each in found if isinstance(each, ImageFile)]
    for each in found:
        if isinstance(each, CxrsegError):
            check_refusal(each)
    assert all(each.path.resolve().is_relative_to(medium.resolve()) for each in images)
    return bool(images)
