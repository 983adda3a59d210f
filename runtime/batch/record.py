"""What is told of each input: its line on the terminal and its record in the tables."""

from __future__ import annotations

from cxrseg.runtime.batch.jobs import Done, Job, Outcome
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.writers.tables import Record, Status


def record(job: Job, outcome: Outcome) -> Record:
    """Return what the tables hold of one input."""
    if isinstance(outcome, CxrsegError):
        source = job.subject if isinstance(job, CxrsegError) else str(job.source)
        return Record(source, "error", str(outcome))
    status: Status = "flagged" if outcome.withheld else "ok"
    return Record(str(outcome.source), status, None, outcome.report, outcome.earlier)


def describe(done: Done) -> str:
    """Return the line that tells of one image."""
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
