"""DICOM files of any structure are read, segmented and written, or refused."""

from __future__ import annotations

from pathlib import Path

from cxrseg.runtime import read
from helpers.fuzz.dicoms import dicom_files
from helpers.trials.answers import asked, check_outputs, check_radiograph
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
