from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from helpers.dicom.dicom_outputs import Write
from helpers.dicom.patient import xray


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
