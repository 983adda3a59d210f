"""Tests that try many drawn cases, in a process of their own that has limits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis.strategies import SearchStrategy

from helpers.paths import REPO

Check = Callable[[bytes, Path], bool]
"""Tries the product on the content of a file, in an empty folder; tells whether it was taken (True)
or refused. Raises whatever should not happen."""

CASES = 100
"""Cases of a test; the long run takes thousands."""

CPU_SECONDS = 10.0
"""What a case may cost. Not time on the clock, in which other processes have their share."""

RESIDENT_MIB = 1600
"""The most memory that the process may hold: what 100 million pixels, the most that are accepted,
are allowed to take. A small file may claim to be as large."""

SILENCE = 600.0
"""Seconds after which a batch counts as hung, however busy the machine."""


@dataclass(frozen=True)
class Trial:
    """A check, and what it is tried on.

    Attributes:
        file: The test file that holds it.
        name: Its name there.
        check: The check.
        cases: The contents of the files that it is tried on.
        seconds: CPU time that one case may cost.
        mib: The most memory that its process may hold.
    """

    file: Path
    name: str
    check: Check
    cases: SearchStrategy[bytes]
    seconds: float = CPU_SECONDS
    mib: int = RESIDENT_MIB


@dataclass(frozen=True)
class Batch:
    """What came of a number of cases.

    Attributes:
        name: The trial.
        seed: The seed that the cases were drawn from.
        cases: How many were tried.
        taken: How many were not refused.
        seconds: How long it took, drawing included.
        slowest_s: CPU time of the slowest case, in seconds.
        peak_mib: Most resident memory of the process, in MiB.
        failure: What went wrong, with the traceback; empty if nothing did.
    """

    name: str
    seed: int
    cases: int = 0
    taken: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    peak_mib: float = 0.0
    failure: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def run_batch(trial: Trial, folder: Path, cases: int, seed: int) -> Batch:
    """Try cases in a process of its own.

    Args:
        trial: What to try.
        folder: An existing folder; the case in work when something fails is left there as ``case``.
        cases: How many.
        seed: What they are drawn from.
    """
    arguments = [str(trial.file), trial.name, str(cases), str(seed), str(folder)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPO / "tests"),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "helpers.trials.child", *arguments]
    notes = folder / "notes"
    try:
        with notes.open("wb") as log:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=log, env=environment, timeout=SILENCE
            )
    except subprocess.TimeoutExpired:
        return Batch(trial.name, seed, failure="hangs")
    last = done.stdout.decode(errors="replace").rpartition("\n{")
    try:
        return Batch(**json.loads("{" + last[2]))
    except (ValueError, TypeError):
        told = notes.read_text(errors="replace")[-6000:]
        return Batch(trial.name, seed, failure=f"ended with {done.returncode}\n{told}")


def fuzzed(
    cases: SearchStrategy[bytes], seconds: float = CPU_SECONDS, mib: int = RESIDENT_MIB
) -> Callable[[Check], Callable[[Path], None]]:
    """Make a test of a check: it passes if the check does on every case of a batch.

    Args:
        cases: As `Trial` takes it.
        seconds: As `Trial` takes it.
        mib: As `Trial` takes it.

    The same cases are drawn each time. Some must be taken and some refused, else they are not what
    they should be: all sound, or all refused at the door.
    """

    def decorate(check: Check) -> Callable[[Path], None]:
        trial = Trial(Path(check.__code__.co_filename), check.__name__, check, cases, seconds, mib)

        def test(tmp_path: Path) -> None:
            batch = run_batch(trial, tmp_path, CASES, seed=0)
            if batch.failure:
                pytest.fail(f"{batch.failure}\nthe case is {tmp_path / 'case'}", pytrace=False)
            assert 0 < batch.taken < batch.cases

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        made: Any = test
        made.trial = trial
        return pytest.mark.skipif(
            not sys.platform.startswith("linux"), reason="sets limits and reads /proc"
        )(made)

    return decorate


def trial_of(test: Callable[[Path], None]) -> Trial:
    """Return the trial that a test was made of."""
    made: Any = test
    trial: Trial = made.trial
    return trial
