"""What is reported of each input: its line on the terminal and its record in the tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cxrseg.runtime.batch.jobs import Done, Job, Outcome
from cxrseg.runtime.core.errors import CxrsegError

if TYPE_CHECKING:
    from cxrseg.runtime.readers.folders import LeftOut
    from cxrseg.runtime.writers.tables import Record, Status


def describe(done: Done) -> str:
    """Return the line on the terminal of one image."""
    report = done.report
    flags = "".join(f" [flag: {flag['reason']}]" for flag in report["flags"])
    written = "nothing, --strict" if done.withheld else next(iter(done.outputs))
    if done.earlier:
        return f"{done.source}: skipped, done before -> {written}{flags}"
    shares = ", ".join(
        f"{label['title']} {100 * label['fraction']:.1f} %" for label in report["labels"]
    )
    ms = sum(report["timings_ms"].values())
    return (
        f"{done.source}: {shares} of the image, {ms:.0f} ms"
        f" on {report['provider']} -> {written}{flags}"
    )


def describe_left_out(left_out: Sequence[LeftOut], named: bool) -> str:
    """Return the line on the terminal of what a search left out.

    Args:
        left_out: What it left out.
        named: Whether lines before it name each of them.
    """
    if not left_out:
        return "no file left out"
    counts = Counter(each.reason for each in left_out)
    reasons = ", ".join(f"{reason} ({count})" for reason, count in counts.most_common())
    files = "1 file" if len(left_out) == 1 else f"{len(left_out)} files"
    return f"{files} left out: {reasons}{'' if named else '; -v names them'}"


@contextmanager
def recording(
    csv: Path | None, jsonl: Path | None, append: bool, lost: Callable[[CxrsegError], None]
) -> Iterator[Callable[[Job, Outcome], None]]:
    """Give a function that records what became of each job in the tables that are asked for.

    Args:
        csv: As `summary` takes it.
        jsonl: As `summary` takes it.
        append: As `summary` takes it.
        lost: As `summary` takes it.

    Raises:
        CxrsegError: A table cannot be written, or its file is not ours.
    """
    if csv is None and jsonl is None:
        yield lambda job, outcome: None
        return
    # Imported here, because few runs write tables.
    from cxrseg.runtime.writers.table_files import summary

    with summary(csv, jsonl, append, lost) as add:
        yield lambda job, outcome: add(record_of(job, outcome))


def record_of(job: Job, outcome: Outcome) -> Record:
    """Return what the tables hold of one input."""
    from cxrseg.runtime.writers.tables import Record

    if isinstance(outcome, CxrsegError):
        source = job.subject if isinstance(job, CxrsegError) else str(job.source)
        return Record(source, "error", str(outcome))
    status: Status = "flagged" if outcome.withheld else "ok"
    return Record(str(outcome.source), status, None, outcome.report, outcome.earlier)
