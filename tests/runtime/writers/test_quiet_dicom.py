from __future__ import annotations

from pathlib import Path

import pytest

from helpers.dicom.patient import chest
from helpers.runs import MAIN, run_python

pytest.importorskip("highdicom", reason="needs the extra dicom")

UNUSUAL: dict[str, dict[str, object]] = {
    "UIDs with leading zeros": {
        "SOPInstanceUID": "1.2.826.0.1.03680043.8.498.01",
        "SeriesInstanceUID": "1.2.00.4",
    },
    "long and wrong values": {
        "AccessionNumber": "A" * 40,
        "StudyDate": "yesterday",
        "PatientSex": "unknown to us",
        "StudyTime": "noon",
    },
    "an unknown character set": {
        "SpecificCharacterSet": "ISO_IR 999",
        "PatientName": "Doe^J\xe4ne",
    },
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", UNUSUAL)
@pytest.mark.parametrize("jobs", [1, 3])
def test_nothing_is_warned_of(model, tmp_path: Path, name: str, jobs: int) -> None:
    paths = [tmp_path / f"{number}.dcm" for number in range(2 * jobs)]
    for path in paths:
        chest(**UNUSUAL[name]).save_as(path, enforce_file_format=True)
    options = ["--format", "png,json,seg,sc", "--jobs", str(jobs), "--csv", str(tmp_path / "t.csv")]
    done = run_python(MAIN, *options, *model, *map(str, paths))
    # What cxrseg itself tells on that stream: that a model has no quality reference.
    lines = [line for line in done.stderr.splitlines() if "not assessed" not in line]
    assert lines == []
    assert done.returncode == 0 and len(list(tmp_path.glob("*_overlay.dcm"))) == 2 * jobs
