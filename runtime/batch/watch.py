"""Doing the images that turn up in folders, one after another, without end."""

from __future__ import annotations

import os
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
            jobs = [_without_links(job, output, settings) for job in planner.jobs(images)]
            with closing(process_all(jobs, segmenter, settings, workers)) as outcomes:
                for job, outcome in outcomes:
                    yield job, _tried_again(watcher, job, outcome)
            planner.forget_missing(2 * watcher.count + BATCH)


def _without_links(job: Job, output: Path | None, settings: Settings) -> Job:
    """Refuse to write through links: who may put files there could have any other file replaced."""
    if isinstance(job, CxrsegError):
        return job
    links = [path for path in job.outputs(settings.formats) if path.is_symlink()]
    if job.folder is not None and output is not None:
        inside = Path(os.path.realpath(job.folder)).is_relative_to(os.path.realpath(output))
        links += [] if inside else [job.folder]
    if links:
        return CxrsegError(links[0], "is a link, which --watch does not write through", "remove it")
    return job


def _tried_again(watcher: Watcher, job: Job, outcome: Outcome) -> Outcome:
    """Have an image tried again where that may help, and say so."""
    if not (isinstance(job, Task) and isinstance(outcome, CxrsegError) and may_pass(outcome)):
        return outcome
    watcher.try_again(job.source)
    return CxrsegError(outcome.subject, f"{outcome.cause}, so it is tried again", outcome.remedy)
