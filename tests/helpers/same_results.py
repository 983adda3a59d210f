"""Compare two folders of cxrseg-run's results, made by two versions of it.

    python tests/helpers/same_results.py BEFORE AFTER

Equal must be the pixels of all PNG files, all that JSON reports hold, and all that DICOM objects
hold, but for what names the version and the run: timings, program and model file, and what the
newer version alone tells. Exit code 1 tells of a difference.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image

OF_THE_RUN = ("program", "timings_ms", "not_assessed")
"""Keys of a report that tell of the program and the run, not of the image."""

OF_THE_MODEL_FILE = ("version", "sha256")
"""Keys of a report's ``model`` that a new export of the same weights changes."""

OF_THE_SOFTWARE = {
    "AlgorithmParameters",
    "AlgorithmVersion",
    "DerivationDescription",
    "DeviceSerialNumber",
    "SoftwareVersions",
}
"""Keywords of DICOM elements that name versions and the model file."""

_VRS_OF_THE_RUN = {"UI", "DA", "TM", "DT"}


def contents(path: Path) -> Any:
    """Return what a result file holds of its image, to be compared with ``==``.

    Raises:
        ValueError: No kind of file that cxrseg-run writes for an image.
    """
    if path.suffix == ".png":
        with Image.open(path) as image:
            palette = image.getpalette()
            pixels = np.asarray(image)
            return image.mode, palette, pixels.shape, pixels.tobytes()
    if path.suffix == ".json":
        report = json.loads(path.read_text(encoding="ascii"))
        for key in OF_THE_RUN:
            report.pop(key, None)
        for key in OF_THE_MODEL_FILE:
            report["model"].pop(key)
        return report
    if path.suffix == ".dcm":
        dataset = pydicom.dcmread(path)
        dataset.walk(_without_versions)
        return dataset.to_json_dict()
    raise ValueError(f"{path} is no result of cxrseg-run")


def _without_versions(dataset: pydicom.Dataset, element: pydicom.DataElement) -> None:
    if element.VR in _VRS_OF_THE_RUN or element.keyword in OF_THE_SOFTWARE:
        del dataset[element.tag]


def differences(before: Path, after: Path, part: bool = False) -> tuple[int, list[str]]:
    """Compare two folders of results, and those in them.

    Args:
        before: Results of one version.
        after: Results of the other.
        part: Whether `after` may lack files that `before` has.

    Returns:
        How many files agree, and a line for each that does not.
    """
    names = [_names(folder) for folder in (before, after)]
    lines = [f"{name}: only in {after}" for name in sorted(names[1] - names[0])]
    if not part:
        lines += [f"{name}: only in {before}" for name in sorted(names[0] - names[1])]
    common = sorted(names[0] & names[1])
    different = [name for name in common if contents(before / name) != contents(after / name)]
    return len(common) - len(different), lines + [f"{name}: differs" for name in different]


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def main() -> int:
    """Compare the folders that the command line names, and return the exit code."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="results of one version")
    parser.add_argument("after", type=Path, help="results of the other")
    parser.add_argument("--part", action="store_true", help="AFTER may hold fewer files")
    options = parser.parse_args()
    agree, lines = differences(options.before, options.after, options.part)
    for line in lines:
        print(line)
    print(f"{agree} files agree, {len(lines)} do not")
    return 1 if lines or not agree else 0


if __name__ == "__main__":
    raise SystemExit(main())
