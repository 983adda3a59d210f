"""Whole processes: what they print, how they fail, and how much memory they take."""

from __future__ import annotations

import sys

import pytest

from cxrseg.benchmarks.speed import processes
from cxrseg.benchmarks.speed.processes import peak_memory, run_process
from cxrseg.runtime.core.errors import CxrsegError


def test_output_and_failure() -> None:
    assert run_process([sys.executable, "-c", "print('a')"], "echo").strip() == "a"
    with pytest.raises(CxrsegError, match=r"^stop: failed in a process of its own \(no\)"):
        run_process([sys.executable, "-c", "raise SystemExit('no')"], "stop")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_peaks_are_those_of_the_process() -> None:
    held = bytearray(b"x" * 100_000_000)
    small, large = (
        peak_memory([sys.executable, "-c", f"b'x' * {size}"], "Python") for size in (1, 200_000_000)
    )
    assert small is not None and large is not None
    assert 150e6 < large - small < 250e6
    assert 0 < small < len(held), "memory of the caller does not count"


def test_systems_that_do_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "find_spec", lambda _: None)
    assert peak_memory([sys.executable, "-c", ""], "Python") is None
