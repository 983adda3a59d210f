"""What an earlier run has done already."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import Label
from cxrseg.runtime.core.own_files import MARK, is_ours
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.readers.reading import fingerprint
from cxrseg.runtime.writers.paths import DICOM_FORMATS, Format, Outputs
from cxrseg.runtime.writers.report import Report, is_complete, load_report


def earlier_report(
    source: Path,
    outputs: Outputs,
    model_sha256: str,
    labels: Sequence[Label],
    deidentify: bool = False,
) -> Report | None:
    """Return the report of an image that needs not be done again.

    The report is written last, so it vouches for the files beside it as long as none of them is
    newer. It counts when this version of cxrseg wrote it, with the same model and labels and at
    least the formats of `outputs`, from a file with the same content as `source`, which is not
    newer than the report.

    Args:
        source: The image.
        outputs: Its outputs, with the formats that are wanted.
        model_sha256: SHA-256 of the model file.
        labels: The labels that the masks shall hold.
        deidentify: Whether DICOM outputs shall be without identity.

    Returns:
        The report, or None where the image has to be done.
    """
    try:
        finished = outputs.report.stat().st_mtime_ns
        if source.stat().st_mtime_ns > finished:
            return None
        if not all(x.stat().st_mtime_ns <= finished and is_ours(x) for x in outputs):
            return None
        report = load_report(outputs.report)
        same = (
            is_complete(report)
            and report["program"] == f"{MARK} {package_version()}"
            and report["model"]["sha256"] == model_sha256
            and [label["name"] for label in report["labels"]] == [label.name for label in labels]
            and _covers(report, outputs.formats, deidentify)
            and report["provenance"]["sha256"] == fingerprint(source)
        )
    # Nothing there, not readable, or not as we write it: it is done anew.
    except (OSError, CxrsegError, ValueError, TypeError, LookupError, RecursionError):
        return None
    return report if same else None


def owner(source: Path, outputs: Outputs) -> str | None:
    """Return the name of the image that an earlier run wrote the report of `outputs` for.

    Args:
        source: The image that these would be the outputs of.
        outputs: Its outputs.

    Returns:
        The name of `source`, or of another image in the same folder; None where there is no report,
        or the image is gone.
    """
    try:
        name = load_report(outputs.report)["input"]
        if name == source.name:
            return source.name
        # Compared, never opened: what a file says is no path.
        return next((x for x in os.listdir(source.parent) if x == name), None)  # noqa: PTH208
    except (OSError, ValueError, LookupError, RecursionError):
        return None


def _covers(report: Report, formats: Collection[Format], deidentify: bool) -> bool:
    if not set(formats) <= set(report["formats"]):
        return False
    return not {*DICOM_FORMATS} & {*formats} or report["deidentified"] is deidentify
