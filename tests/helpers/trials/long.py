"""All trials at length, a batch of each in turn.

What is done is kept in the folder, so that a run that was ended goes on where it was.

    PYTHONPATH=tests python -m helpers.trials.long FOLDER --cases 20000
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tabulate import tabulate

from helpers.paths import REPO
from helpers.trials.child import load_module
from helpers.trials.trial import Batch, Trial, run_batch

BATCH = 500
"""Cases of a batch."""


def all_trials() -> Iterator[Trial]:
    """Give the trials of all test files."""
    for file in sorted((REPO / "tests").rglob("test_fuzz.py")):
        for value in vars(load_module(file)).values():
            if hasattr(value, "trial"):
                yield value.trial


def finished(folder: Path) -> list[Batch]:
    """Return the batches that an earlier run did."""
    record = folder / "batches.jsonl"
    if not record.exists():
        return []
    return [Batch(**json.loads(line)) for line in record.read_text().splitlines()]


def run(folder: Path, trials: Sequence[Trial], cases: int) -> list[Batch]:
    """Try at least as many cases, shared by all trials; return all batches, earlier ones too."""
    (folder / "work").mkdir(parents=True, exist_ok=True)
    batches = finished(folder)
    done = {(batch.name, batch.seed) for batch in batches}
    rounds = -(-cases // (BATCH * len(trials)))
    # The test itself takes the seed 0.
    for number in range(1, rounds + 1):
        for trial in trials:
            if (trial.name, number) in done:
                continue
            batch = run_batch(trial, folder / "work", BATCH, number)
            print(batch, flush=True)
            if batch.failure:
                (folder / "work/case").rename(folder / f"{trial.name}-{number}.case")
            with (folder / "batches.jsonl").open("a") as record:
                record.write(batch.to_json() + "\n")
            batches.append(batch)
    return batches


def summarize(batches: Sequence[Batch]) -> str:
    """Return a table of figures: a row for each trial, and one for all."""
    rows = []
    for name in (*dict.fromkeys(batch.name for batch in batches), ""):
        some = [batch for batch in batches if name in (batch.name, "")]
        rows.append(
            {
                "trial": name or "all",
                "cases": sum(batch.cases for batch in some),
                "taken": sum(batch.taken for batch in some),
                "s": round(sum(batch.seconds for batch in some)),
                "slowest case, s of CPU": max(batch.slowest_s for batch in some),
                "at most, MiB": max(batch.peak_mib for batch in some),
                "failures": sum(bool(batch.failure) for batch in some),
            }
        )
    return tabulate(rows, headers="keys", floatfmt=".2f")


def main() -> None:
    parser = argparse.ArgumentParser(description="Try files of drawn contents, at length.")
    parser.add_argument("folder", type=Path, help="where the record and failing cases go")
    parser.add_argument("--cases", type=int, default=20_000, help="cases of all trials together")
    parser.add_argument("--only", metavar="TEXT", default="", help="trials whose name has this")
    options = parser.parse_args()
    trials = [trial for trial in all_trials() if options.only in trial.name]
    batches = run(options.folder, trials, options.cases)
    print(summarize(batches))
    sys.exit(any(batch.failure for batch in batches))


if __name__ == "__main__":
    main()
