"""Going through the rows of ``cxrseg-bench methods``: train, export, score, time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxrseg.benchmarks.accuracy.scoring import Score, score
from cxrseg.benchmarks.accuracy.summary import DIGITS, MEASURES, summaries
from cxrseg.benchmarks.methods.methods_rows import Precision, Row
from cxrseg.benchmarks.methods.methods_runs import Plan, budget_of, export_row, train_row
from cxrseg.benchmarks.methods.methods_scores import BY, Test, kept, over_seeds, prompted_scores
from cxrseg.benchmarks.speed.latency import time_networks
from cxrseg.benchmarks.speed.models import open_models
from cxrseg.export.graph.files import digest
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.segmenter import Segmenter
from cxrseg.runtime.terminal.console import DEBUG, echo, fail, watched
from cxrseg.trainer.fit.checkpoint import MODEL, load

REFERENCE = ("adalora-qat", "int8")
"""Row and precision that latencies are divided by, where it is among the rows."""

WARMUP = 5
"""Inferences of each file that do not count."""

Failures = dict[tuple[str, int], str]
"""Row and seed -> what went wrong."""


@dataclass(frozen=True)
class Scoring:
    """How trained rows are measured.

    Attributes:
        tests: What on.
        box: Whether SAMs are also prompted with a box.
        threads: CPU threads of one inference.
        runs: Inferences of each file that count for its latency.
        seed: Seed of bootstrap, boxes and the latencies' order.
    """

    tests: Sequence[Test]
    box: bool
    threads: int
    runs: int
    seed: int


@dataclass(frozen=True)
class Scored:
    """Scores of one exported file, by name of the test.

    Attributes:
        path: The file.
        sha256: Its hash.
        plain: Without a prompt.
        box: Prompted; empty where it is not.
    """

    path: Path
    sha256: str
    plain: Mapping[str, Sequence[Score]]
    box: Mapping[str, Sequence[Score]]


@contextmanager
def reported(failures: Failures, row: Row, seed: int) -> Iterator[None]:
    """Note and print what goes wrong with a row, and go on."""
    try:
        yield
    except CxrsegError as error:
        failures[row.name, seed] = str(error)
        fail(CxrsegError(f"{row.name}, seed {seed}", str(error)))
    # Whatever goes wrong with one row, the others are worth having.
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        cause = f"failed ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
        failures[row.name, seed] = cause
        fail(CxrsegError(f"{row.name}, seed {seed}", cause))


def train_rows(plan: Plan, rows: Sequence[Row], seeds: Sequence[int], failures: Failures) -> None:
    """Train every row with every seed, a row that others go on from before them.

    Args:
        plan: What was asked for.
        rows: The rows, in order.
        seeds: The seeds.
        failures: Takes what goes wrong.

    Raises:
        KeyboardInterrupt: Stopped; the next call goes on.
    """
    for seed in seeds:
        for row in rows:
            echo(f"{row.name}, seed {seed}: training, {plan.folder_of(row, seed)}", err=True)
            with reported(failures, row, seed):
                if row.after is not None and (row.after, seed) in failures:
                    raise CxrsegError(row.after, "failed, and nothing can go on from it")
                train_row(plan, row, seed)


def measure_rows(
    plan: Plan, rows: Sequence[Row], seeds: Sequence[int], scoring: Scoring, failures: Failures
) -> list[dict[str, Any]]:
    """Export, score and time what was trained.

    Args:
        plan: What was asked for.
        rows: The rows, in order.
        seeds: The seeds; those in `failures` are passed over.
        scoring: How to measure.
        failures: Takes what goes wrong.

    Returns:
        Plain data: a line for each row and precision that at least one seed has.
    """
    lines, paths = [], []
    for row in rows:
        budgets: dict[int, dict[str, Any]] = {}
        found: dict[Precision, dict[int, Scored]] = {name: {} for name in row.precisions}
        for number in (n for n in seeds if (row.name, n) not in failures):
            echo(f"{row.name}, seed {number}: measuring", err=True)
            with reported(failures, row, number):
                budget = budget_of(plan, row, number)
                files = export_row(plan, row, number)
                prompted = scoring.box and row.method is not None
                scored = {name: scores_of(path, prompted, scoring) for name, path in files.items()}
                budgets[number] = budget
                for name, each in scored.items():
                    found[name][number] = each
        for precision, by_seed in found.items():
            if by_seed:
                lines.append(_line(row, precision, budgets, by_seed, scoring))
                paths.append(next(iter(by_seed.values())).path)
    if lines:
        _time(paths, lines, scoring)
    return lines


def scores_of(path: Path, prompted: bool, scoring: Scoring) -> Scored:
    """Score one exported file, or read the scores that are kept beside it.

    Args:
        path: The file, beside the checkpoint that it comes from.
        prompted: Whether to prompt that checkpoint's SAM with a box too.
        scoring: How.

    Raises:
        CxrsegError: The file, an image or a mask cannot be read.
    """
    sha256 = digest([path])
    plain, box = {}, {}
    for test in scoring.tests:
        place = path.with_name(f"{path.stem}-{test.split}-{test.protocol}")
        key = {"model": sha256, "images": test.digest}
        segmenter = Segmenter(path, "cpu", scoring.threads, test.protocol)

        def unaided(segmenter: Segmenter = segmenter, test: Test = test) -> Iterator[Score]:
            return watched(score(segmenter, test.cases, BY), len(test.cases))

        def aided(segmenter: Segmenter = segmenter, test: Test = test) -> Iterator[Score]:
            model = load(path.with_name(MODEL)).model
            scores = prompted_scores(segmenter, model, test.cases, scoring.seed)
            return watched(scores, len(test.cases))

        plain[test.name] = kept(place.with_suffix(".json"), key, unaided)
        if prompted:
            key["seed"] = str(scoring.seed)
            box[test.name] = kept(place.with_name(f"{place.name}-box.json"), key, aided)
    return Scored(path, sha256, plain, box)


def _line(
    row: Row,
    precision: Precision,
    budgets: Mapping[int, Mapping[str, Any]],
    found: Mapping[int, Scored],
    scoring: Scoring,
) -> dict[str, Any]:
    runs = list(found.values())
    first, names = runs[0], [test.name for test in scoring.tests]
    plain = {name: over_seeds([each.plain[name] for each in runs]) for name in names}
    box = {name: over_seeds([each.box[name] for each in runs]) for name in first.box}
    seconds = [budgets[seed]["seconds"] for seed in found]
    return {
        "row": row.name,
        "title": row.title,
        "precision": precision,
        "seeds": list(found),
        **next(iter(budgets.values())),
        "seconds": round(sum(seconds) / len(seconds), 1),
        "file": first.path.name,
        "sha256": [each.sha256 for each in runs],
        "size_bytes": first.path.stat().st_size,
        "accuracy": {name: _figures(scores, scoring.seed) for name, scores in plain.items()},
        "box": {name: _figures(scores, scoring.seed) for name, scores in box.items()} or None,
        "dice_per_seed": {name: [_dice(each.plain[name]) for each in runs] for name in names},
        "dice": {n: [round(each.union.dice, DIGITS) for each in plain[n]] for n in names},
    }


def _figures(scores: Sequence[Score], seed: int) -> dict[str, Any]:
    wanted = ("images", "patients", *MEASURES)
    plain = {name: each.to_dict() for name, each in summaries(scores, BY, seed).items()}
    return {name: {key: each[key] for key in wanted} for name, each in plain.items()}


def _dice(scores: Sequence[Score]) -> float:
    return round(float(np.mean([each.union.dice for each in scores])), DIGITS)


def reference_of(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the line that latencies are divided by: that of `REFERENCE`, or the first."""
    return next((x for x in lines if (x["row"], x["precision"]) == REFERENCE), lines[0])


def _time(paths: Sequence[Path], lines: Sequence[dict[str, Any]], scoring: Scoring) -> None:
    """Add latencies to the lines: all files in turn, on the CPU."""
    echo("measuring latencies", err=True)
    models = open_models(paths, "cpu", scoring.threads)
    latencies = time_networks(models, scoring.runs, scoring.seed)
    for line, latency in zip(lines, latencies, strict=True):
        line["latency_ms"] = latency
    reference = reference_of(lines)["latency_ms"]["median"]
    for line in lines:
        line["relative_latency"] = round(line["latency_ms"]["median"] / reference, DIGITS)
