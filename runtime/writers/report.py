"""The JSON report of one result: made, written, and read again by a later run."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cxrseg.runtime.core.model_card import INTENDED_USE
from cxrseg.runtime.core.radiograph import Radiograph
from cxrseg.runtime.core.segmentation import Segmentation
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.files.opening import read_file
from cxrseg.runtime.files.own_files import MARK
from cxrseg.runtime.measures.lungs import measure
from cxrseg.runtime.writers.paths import DEFAULT_FORMATS, FORMATS, Format, dicom_among

Report = dict[str, Any]
"""What ``x.json`` holds: plain data for JSON."""

_MAX_BYTES = 1 << 20


def make_report(
    segmentation: Segmentation,
    radiograph: Radiograph,
    source: str | os.PathLike[str],
    formats: Collection[Format] = DEFAULT_FORMATS,
    deidentify: bool = False,
) -> Report:
    """Return the report of one result: all but the mask, with the sizes of the lungs.

    Args:
        segmentation: The result.
        radiograph: The image that it was made from, with its orientation.
        source: The image file.
        formats: What is written of it.
        deidentify: As `write` takes it.
    """
    measured = measure(
        segmentation.mask, segmentation.labels, segmentation.spacing, radiograph.orientation
    )
    # Who writes the files fills in their hashes.
    written: Report = {"formats": [name for name in FORMATS if name in formats], "files": {}}
    if dicom_among(formats):
        written["deidentified"] = deidentify
    return {
        "program": f"{MARK} {package_version()}",
        "intended_use": INTENDED_USE,
        "input": Path(source).name,
        **written,
        **segmentation.to_dict(),
        "measurements": measured.to_dict(),
    }


def report_json(report: Report) -> str:
    """Return a report as ASCII JSON text."""
    return json.dumps(report, indent=2, allow_nan=False) + "\n"


def load_report(path: Path) -> Report:
    """Read a JSON object from a file that should be a report; `report_form` tells whether it is.

    Raises:
        OSError: The file cannot be read, or is larger than a report can be.
        ValueError: It is no JSON object.
        RecursionError: It is nested deeper than Python follows.
    """
    report = json.loads(read_file(path, _MAX_BYTES), parse_constant=_refuse)
    if not isinstance(report, dict):
        raise ValueError("no report")
    return report


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} in a report")
