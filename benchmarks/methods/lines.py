"""The lines of the table of methods, gathered from what training, accuracy and latency recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxrseg.benchmarks.harness.parts import Outcome, digest
from cxrseg.benchmarks.harness.record import read_bytes, read_record
from cxrseg.benchmarks.methods.rows import ROWS, Precision, Trial
from cxrseg.runtime.core.errors import CxrsegError

REFERENCE = ("adalora-qat", "int8")
"""Row and precision that latencies are divided by, where it is among the lines."""

MEASURES = ("dice", "iou", "nsd", "hd95_px", "assd_px")

DIGITS = 6


def lines_of(
    trials: Sequence[Trial], outcomes: Mapping[str, Outcome], latency: Path
) -> list[dict[str, Any]]:
    """Return a line of plain data for each row and precision that was measured.

    Args:
        trials: All rows with all seeds.
        outcomes: Part -> what became of it.
        latency: Record of the files' latencies, if it was made.

    Raises:
        CxrsegError: A record cannot be read.
    """
    lines = []
    for row in dict.fromkeys(trial.row.name for trial in trials):
        for precision in ROWS[row].precisions:
            own = [trial for trial in trials if trial.row.name == row]
            measured = [trial for trial in own if _is_measured(trial, precision, outcomes)]
            if measured:
                lines.append(_line(measured, precision, outcomes))
    _add_latencies(lines, latency)
    return lines


def _is_measured(trial: Trial, precision: Precision, outcomes: Mapping[str, Outcome]) -> bool:
    names = [f"{trial.name}: accuracy {precision} {protocol}" for protocol in trial.protocols]
    return all(is_done(name, outcomes) for name in names)


def is_done(name: str, outcomes: Mapping[str, Outcome]) -> bool:
    """Tell whether a part was made and kept its limits."""
    return name in outcomes and outcomes[name].outcome == "done"


def _line(
    trials: Sequence[Trial], precision: Precision, outcomes: Mapping[str, Outcome]
) -> dict[str, Any]:
    first = trials[0]
    reports = _reports(first)
    files = [trial.file(precision) for trial in trials]
    accuracy, dice, box = {}, {}, {}
    for protocol in first.protocols:
        test = f"test, {protocol}"
        summaries = [_summary(trial.record(precision, protocol)) for trial in trials]
        accuracy[test] = _figures(summaries[0])
        dice[test] = [summary["all"]["dice"]["mean"] for summary in summaries]
        if is_done(f"{first.name}: box {protocol}", outcomes):
            box[test] = _figures(_summary(first.record("box", protocol)))
    start = first.start
    return {
        "row": first.row.name,
        "title": first.row.title,
        "precision": precision,
        "seeds": [trial.seed for trial in trials],
        "start": None if start is None else start.name,
        "start_sha256": None if start is None else digest(start),
        "images": [report["images"] for report in reports],
        "seconds": round(sum(report["seconds"] for report in reports), 1),
        "trainable": reports[0]["trainable"],
        "file": files[0].name,
        "sha256": [digest(file) for file in files],
        "size_bytes": files[0].stat().st_size,
        "accuracy": accuracy,
        "box": box or None,
        "dice_per_seed": dice,
        "dice": {test: round(float(np.mean(values)), DIGITS) for test, values in dice.items()},
        "latency_ms": None,
        "relative_latency": None,
    }


def _summary(path: Path) -> dict[str, Any]:
    record = read_record(path)
    if record is None:
        raise CxrsegError(path, "is no result of cxrseg-bench", "remove it and run again")
    summary: dict[str, Any] = record["data"]["summary"]
    return summary


def _figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    wanted = ("images", "patients", *MEASURES)
    return {group: {key: figures[key] for key in wanted} for group, figures in summary.items()}


def _reports(trial: Trial) -> list[dict[str, Any]]:
    """Return the reports of the stages that a row went through, stage 1 first."""
    if trial.row.after is None:
        return [_report(trial.run.output, 1)]
    before = trial.run.output.with_name(trial.row.after)
    return [_report(before, 1), _report(trial.run.output, 2)]


def _report(folder: Path, stage: int) -> dict[str, Any]:
    path = folder / f"stage{stage}.json"
    try:
        report: dict[str, Any] = json.loads(read_bytes(path))
    except (CxrsegError, ValueError) as error:
        cause = f"the report of a finished stage cannot be read ({error})"
        raise CxrsegError(path, cause, "remove the row's folder to train it again") from None
    return report


def _add_latencies(lines: Sequence[dict[str, Any]], latency: Path) -> None:
    record = read_record(latency) if latency.is_file() else None
    models = record["data"]["models"] if record else ()
    found = {model["sha256"]: model["latency_ms"] for model in models}
    for line in lines:
        line["latency_ms"] = found.get(line["sha256"][0])
    timed = [line for line in lines if line["latency_ms"]]
    if timed:
        first = next((x for x in timed if (x["row"], x["precision"]) == REFERENCE), timed[0])
        reference = first["latency_ms"]["median"]
        for line in timed:
            line["relative_latency"] = round(line["latency_ms"]["median"] / reference, DIGITS)
