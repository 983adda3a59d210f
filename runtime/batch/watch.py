"""Doing the images that turn up in folders, one after another, without end."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from cxrseg.runtime.batch.jobs import Job, Outcome, Settings, Task
from cxrseg.runtime.batch.plan import Planner
from cxrseg.runtime.batch.transient import may_pass
from cxrseg.runtime.batch.watcher import BATCH, Watcher
from cxrseg.runtime.batch.workers import process_all
from cxrseg.runtime.core.errors import CxrsegError

if TYPE_CHECKING:
    from cxrseg.runtime.segmenter import Segmenter


def watch(
    watcher: Watcher,
    output: Path | None,
    segmenter: Segmenter,
    settings: Settings,
    workers: int = 1,
) -> Generator[tuple[Job, Outcome], None, None]:
    """Do the images that a watcher gives, without end. Close the iterator to end it.

    A failure that `may_pass` is reported, and its image tried again later.

    Args:
        watcher: Where images turn up.
        output: Where outputs go, in the same sub-folders; None = beside each image.
        segmenter: The loaded model.
        settings: What to do.
        workers: Images in work at once.

    Yields:
        As `process_all` does.
    """
    planner = Planner(output, settings)
    with closing(watcher.batches()) as batches:
        for images in batches:
            with closing(
                process_all(planner.jobs(images), segmenter, settings, workers)
            ) as outcomes:
                for job, outcome in outcomes:
                    yield job, _tried_again(watcher, job, outcome)
            planner.forget_missing(2 * watcher.count + BATCH)


def _tried_again(watcher: Watcher, job: Job, outcome: Outcome) -> Outcome:
    """Have an image tried again where that may help, and say so."""
    if not (isinstance(job, Task) and isinstance(outcome, CxrsegError) and may_pass(outcome)):
        return outcome
    watcher.try_again(job.source)
    return CxrsegError(outcome.subject, f"{outcome.cause}, so it is tried again", outcome.remedy)
