"""What an earlier run has done already."""

from __future__ import annotations

import os
from collections.abc import Sequence

from cxrseg.runtime.batch.jobs import Settings, Task
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import Label
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.files.own_files import MARK
from cxrseg.runtime.readers.reading import fingerprint
from cxrseg.runtime.writers.paths import DEFAULT_FORMATS, Outputs, dicom_among
from cxrseg.runtime.writers.report import Report, load_report
from cxrseg.runtime.writers.report_form import is_complete


def earlier_report(
    task: Task, model_sha256: str, labels: Sequence[Label], settings: Settings
) -> Report | None:
    """Return the report of an image that needs not be done again.

    The report vouches for the files beside it whose hashes it holds. It counts when this version of
    cxrseg wrote it, with the same model and labels and at least the formats that are wanted, from
    a file with the same content as the image, which is not newer than the report.

    Args:
        task: The image.
        model_sha256: SHA-256 of the model file, lower-case hex.
        labels: The labels that the masks shall hold.
        settings: What is wanted: formats, and whether DICOM outputs are without identity.

    Returns:
        The report, or None where the image has to be done.
    """
    outputs = task.outputs(settings.formats)
    try:
        if task.source.stat().st_mtime_ns > outputs.report.stat().st_mtime_ns:
            return None
        report = load_report(outputs.report)
        if (
            is_complete(report)
            and report["program"] == f"{MARK} {package_version()}"
            and report["model"]["sha256"] == model_sha256
            and [label["name"] for label in report["labels"]] == [label.name for label in labels]
            and _covers(report, settings)
            and report["provenance"].get("sha256") == fingerprint(task.source)
            and _vouches(report, outputs)
        ):
            return report
    # Nothing there, or not readable: it is done anew.
    except (OSError, CxrsegError, ValueError, RecursionError):
        pass
    return None


def earlier_owner(task: Task) -> str | None:
    """Return the name of the image that an earlier run wrote the task's report for.

    Returns:
        The name of the task's image, or of another one in the same folder; None where there is no
        report, or the image is gone.
    """
    source = task.source
    try:
        name = load_report(task.outputs(DEFAULT_FORMATS).report)["input"]
        if name == source.name:
            return source.name
        # Compared, never opened: what a file says is no path.
        return next((x for x in os.listdir(source.parent) if x == name), None)  # noqa: PTH208
    except (OSError, ValueError, LookupError, RecursionError):
        return None


def _vouches(report: Report, outputs: Outputs) -> bool:
    """Tell whether the files are those that were written with a report.

    Raises:
        CxrsegError: One is missing or cannot be read.
    """
    others = [path for path in outputs if path != outputs.report]
    return all(report["files"].get(path.name) == fingerprint(path) for path in others)


def _covers(report: Report, settings: Settings) -> bool:
    """Tell whether a report covers all files that are wanted, with or without identity."""
    if not {*settings.formats} <= {*report["formats"]}:
        return False
    same_identity = report.get("deidentified") is settings.deidentify
    return same_identity or not dicom_among(settings.formats)
