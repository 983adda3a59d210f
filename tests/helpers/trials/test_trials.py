"""Trials notice what they are there for."""

from __future__ import annotations

import faulthandler
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from cxrseg.runtime import CxrsegError
from helpers.trials.answers import asked, nothing_half_written
from helpers.trials.trial import fuzzed, run_batch, trial_of

CASES = st.integers(0, 255).map(lambda number: bytes([number]))


def fails_on_large(case: bytes) -> bool:
    return case[0] >= 200


@fuzzed(CASES)
def sound(case: bytes, home: Path) -> bool:
    return not fails_on_large(case)


@fuzzed(CASES)
def raising(case: bytes, home: Path) -> bool:
    if fails_on_large(case):
        raise KeyError("odd")
    return True


@fuzzed(CASES)
def crashing(case: bytes, home: Path) -> bool:
    if fails_on_large(case):
        faulthandler._sigsegv()
    return True


@fuzzed(CASES, seconds=0.5)
def endless(case: bytes, home: Path) -> bool:
    while fails_on_large(case):
        pass
    return True


@fuzzed(CASES, mib=200)
def hoarding(case: bytes, home: Path) -> bool:
    if fails_on_large(case):
        np.ones(1 << 25)
    return True


@fuzzed(CASES)
def careless(case: bytes, home: Path) -> bool:
    with nothing_half_written(home):
        (home / "x.png.part").touch() if fails_on_large(case) else None
    return True


def broken(what: str) -> None:
    try:
        [][1]
    except IndexError as error:
        raise CxrsegError("x", what, "mend it") from error


@pytest.mark.parametrize(
    ("test", "words"),
    [
        (raising, "KeyError: 'odd'"),
        (crashing, "Segmentation fault"),
        (endless, "in endless"),
        (hoarding, " MiB"),
        (careless, "x.png.part"),
    ],
)
def test_failures_are_told_with_their_case(test, words: str, tmp_path: Path) -> None:
    trial = trial_of(test)
    batch = run_batch(replace(trial, file=Path(__file__)), tmp_path, 100, seed=1)
    assert words in batch.failure
    assert fails_on_large((tmp_path / "case").read_bytes())


def test_sound_batch(tmp_path: Path) -> None:
    batch = run_batch(trial_of(sound), tmp_path, 100, seed=1)
    assert not batch.failure and 0 < batch.taken < batch.cases
    assert not list(tmp_path.glob("tmp*"))
    assert run_batch(trial_of(sound), tmp_path, 100, seed=1).cases == batch.cases


def test_refusals_are_looked_at() -> None:
    def refuse(cause: str) -> None:
        raise CxrsegError("x", cause, "mend it")

    assert asked(lambda: refuse("is damaged")) is None
    for cause in ("unexpected failure (x)", "not enough memory to read it"):
        with pytest.raises(AssertionError):
            asked(lambda cause=cause: refuse(cause))
