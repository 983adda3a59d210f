"""Making many results one after the other; results of the same inputs are kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Literal

import click

from cxrseg.benchmarks.harness.parameters import Options
from cxrseg.benchmarks.harness.record import check_output, now, read_record, result_files
from cxrseg.benchmarks.harness.runner import Benchmark, run
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.files.digest import sha256_of
from cxrseg.runtime.terminal.console import DEBUG, echo, fail

Status = Literal["done", "not passed", "failed", "skipped"]


@dataclass(frozen=True)
class Part:
    """One of the results.

    Attributes:
        name: Its name.
        output: The file that it makes.
        make: Writes the file; returns whether all limits were kept.
        inputs: All that it depends on; each path is a file; of a folder its name counts.
        plots: Names of the plots that it may draw.
        unfit: Why it does not apply here; empty where it does.
    """

    name: str
    output: Path
    make: Callable[[Path], bool]
    inputs: Sequence[object] = ()
    plots: Sequence[str] = ()
    unfit: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a part.

    Attributes:
        name: The part.
        outcome: How it ended.
        why: Why, if not well.
        date: When it was made; empty if it was not.
        seconds: How long that took.
        inputs: Digest of all that it depends on.
        result: SHA-256 of the file that it made.
    """

    name: str
    outcome: Status
    why: str = ""
    date: str = ""
    seconds: float | None = None
    inputs: str = ""
    result: str = ""


def benchmark_part(
    name: str, benchmark: Benchmark, options: Options, output: Path, unfit: str = ""
) -> Part:
    """Return the part that runs a benchmark without printing its tables."""

    def make(path: Path) -> bool:
        return run(benchmark, options, path, show=lambda _line: None).passed

    values = _flat(astuple(options))  # type: ignore[call-overload]
    return Part(name, output, make, [benchmark.name, *values], benchmark.plots, unfit)


def _flat(values: Sequence[object]) -> Iterator[object]:
    for value in values:
        if isinstance(value, tuple):
            yield from _flat(value)
        else:
            yield value


def run_parts(
    parts: Sequence[Part], skip: Collection[str], earlier: Mapping[str, Outcome]
) -> Iterator[Outcome]:
    """Make all parts, one after the other; results of the same inputs are kept.

    Args:
        parts: The parts; one that reads what another makes stands after it.
        skip: Names of those that are not to be made.
        earlier: Part -> what became of it in an earlier run.

    Yields:
        What became of each part.

    Raises:
        KeyboardInterrupt: Ctrl-C ends the whole run.
    """
    missing = {part.output: part.name for part in parts}
    for number, part in enumerate(parts, start=1):
        before = earlier.get(part.name)
        outcome = _kept_or_skipped(part, missing, skip, before)
        if outcome is None:
            echo(f"cxrseg-bench: {part.name}, {number} of {len(parts)} ...", err=True)
            # Before the work, in which an input could change.
            inputs = fingerprint(part)
            outcome = replace(attempt(part), inputs=inputs)
        if outcome.outcome in ("done", "not passed"):
            del missing[part.output]
        elif part.output.exists():
            outcome = replace(outcome, why=f"{outcome.why}; an earlier result is left as it was")
        _tell(outcome, kept=outcome is before)
        yield outcome


def _kept_or_skipped(
    part: Part, missing: Mapping[Path, str], skip: Collection[str], before: Outcome | None
) -> Outcome | None:
    """Return the outcome of a part that is not to be made now; None for one that is."""
    lacking = [missing[x] for x in part.inputs if isinstance(x, Path) and x in missing]
    if part.unfit:
        return Outcome(part.name, "skipped", part.unfit)
    if lacking:
        return Outcome(part.name, "skipped", f"needs {' and '.join(lacking)}")
    if before and before.inputs == fingerprint(part) and before.result == digest(part.output) != "":
        return before
    if part.name in skip:
        return Outcome(part.name, "skipped", "by --skip")
    return None


def _tell(outcome: Outcome, kept: bool) -> None:
    time = "" if outcome.seconds is None else f"{outcome.seconds:g} s"
    if kept:
        time = f"made {outcome.date} of the same inputs, kept"
    details = "; ".join(filter(None, (outcome.why, time)))
    echo(f"{outcome.outcome}: {outcome.name}{f' ({details})' if details else ''}")


def attempt(part: Part) -> Outcome:
    """Make a part; a failure is printed and goes no further.

    Results that an earlier run of it left are removed first, so that nothing old is taken for new;
    a model file is replaced when the new one is there.

    Raises:
        KeyboardInterrupt: Ctrl-C ends the whole run.
    """
    date, start = now(), monotonic()
    try:
        if part.output.suffix == ".json":
            check_output(part.output, part.plots)
            for file in result_files(part.output, part.plots):
                file.unlink(missing_ok=True)
        passed = part.make(part.output)
    except CxrsegError as error:
        return _failed(part, error)
    except click.ClickException as error:
        return _failed(part, CxrsegError(part.name, error.format_message()))
    # Whatever goes wrong with one part, the others are worth having.
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        cause = f"unexpected failure ({type(error).__name__}: {error})"
        return _failed(part, CxrsegError(part.name, cause))
    seconds, result = round(monotonic() - start, 1), digest(part.output)
    if not passed:
        why = "a limit was missed; see its tables"
        return Outcome(part.name, "not passed", why, date, seconds, result=result)
    return Outcome(part.name, "done", "", date, seconds, result=result)


def _failed(part: Part, error: CxrsegError) -> Outcome:
    fail(error)
    return Outcome(part.name, "failed", str(error))


def fingerprint(part: Part) -> str:
    """Return a digest of what a part depends on: options, and what its input files hold.

    Of a folder its name counts; of a CSV its own text, not the images and masks that it names.
    """
    facts = [package_version(), part.name]
    for value in part.inputs:
        if not isinstance(value, Path):
            facts.append(repr(value))
        elif value.is_dir():
            facts.append(value.name)
        else:
            facts.append(digest(value))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def digest(path: Path) -> str:
    """Return the SHA-256 of a file; nothing where there is none that can be read."""
    try:
        return sha256_of(path)
    except OSError:
        return ""


def read_outcomes(path: Path) -> dict[str, Outcome]:
    """Return what became of the parts in an earlier run.

    Args:
        path: The record of that run, whose data holds ``parts``.

    Returns:
        Part -> outcome; nothing where there is no such record, or one of another version.
    """
    try:
        record = read_record(path) if path.exists() else None
        parts = record["data"]["parts"] if record else ()
        return {entry["name"]: Outcome(**entry) for entry in parts}
    except (CxrsegError, KeyError, TypeError):
        return {}  # All parts are made again.
