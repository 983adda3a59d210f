"""Trying the cases of one trial within limits of memory and time; started by `run_batch`.

A case that ends the process, by a crash or by a limit, stays in the folder.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time
from types import ModuleType

from hypothesis import HealthCheck, Phase, given, seed, settings

from helpers.trials.trial import Batch, Trial, trial_of

ADDRESS_SPACE = 4 << 30
"""Of the process, in bytes."""

WAIT_SECONDS = 120.0
"""Time on the clock after which a case waits for something that never comes."""


def load_module(file: Path) -> ModuleType:
    """Load a test file, which belongs to no package."""
    spec = importlib.util.spec_from_file_location(f"trials_of_{file.parent.name}", file)
    assert spec is not None and spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def set_limits() -> None:
    """Let the process die with a traceback of all threads where it takes too long."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()
    for number in (signal.SIGPROF, signal.SIGALRM):
        faulthandler.register(number, chain=True)


@contextmanager
def limited_time(cpu_seconds: float) -> Iterator[None]:
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, WAIT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def forget_peak() -> None:
    """Begin anew with the most memory that was held, where the system can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """Return the most memory that this process has held."""
    # Not getrusage, which counts what the parent held when it started this process.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def run(trial: Trial, count: int, number: int, folder: Path) -> Batch:
    """Try `count` cases drawn from a seed; one that fails is tried again until it is small."""
    cases = taken = 0
    slowest = peak = 0.0

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(trial.cases)
    def each(case: bytes) -> None:
        nonlocal cases, taken, slowest, peak
        (folder / "case").write_bytes(case)
        forget_peak()
        with tempfile.TemporaryDirectory(dir=folder) as home, limited_time(trial.seconds):
            before = process_time()
            answer = trial.check(case, Path(home))
            slowest = max(slowest, process_time() - before)
        peak = max(peak, held := peak_mib())
        assert held < trial.mib, f"{held:.0f} MiB"
        cases, taken = cases + 1, taken + answer

    failure, start = "", perf_counter()
    try:
        each()
    # Whatever it is, it is what the trial looks for.
    except BaseException as error:
        # Hypothesis notes the whole case, which lies in the folder.
        error.__notes__ = []
        failure = "".join(traceback.format_exception(error))[-6000:]
    batch = Batch(trial.name, number, cases, taken, failure=failure)
    return replace(batch, seconds=perf_counter() - start, slowest_s=slowest, peak_mib=round(peak))


def main() -> None:
    file, name, count, number, folder = sys.argv[1:]
    trial = trial_of(getattr(load_module(Path(file)), name))
    set_limits()
    print("\n" + run(trial, int(count), int(number), Path(folder)).to_json())


if __name__ == "__main__":
    main()
