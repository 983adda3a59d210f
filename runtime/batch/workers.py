"""How many images are in work at once, and doing them so."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING

from cxrseg.runtime.batch.jobs import Job, Outcome, Settings, Task
from cxrseg.runtime.batch.process import process
from cxrseg.runtime.readers.reading import count_pixels

if TYPE_CHECKING:
    from cxrseg.runtime.segmenter import Segmenter

MAX_JOBS = 4
"""Most images in work at once by default: each is in memory several times over."""


def default_workers(images: int, threads: int) -> int:
    """Return how many images to have in work at once: one per CPU thread, within `MAX_JOBS`.

    Args:
        images: Number of images.
        threads: CPU threads for all of them.
    """
    return max(1, min(images, threads, MAX_JOBS))


def threads_each(threads: int, workers: int) -> int:
    """Return the threads of one inference, so that those of all workers make `threads`.

    Inferences of one model share the threads that ONNX Runtime adds to the worker's own.
    """
    return max(1, threads - workers + 1)


def process_all(
    jobs: Iterable[Job],
    segmenter: Segmenter,
    settings: Settings | None = None,
    workers: int = 1,
) -> Generator[tuple[Job, Outcome], None, None]:
    """Do the jobs, giving each with its outcome, in their order, as soon as it is known.

    Args:
        jobs: From `plan`.
        segmenter: The loaded model.
        settings: What to do; None = the defaults.
        workers: Images in work at once, as long as they have `MAX_PIXELS` together. Results are
            the same whatever their number. Close the iterator where it is left early: it waits for
            what is in work.
    """
    if workers == 1:
        for job in jobs:
            yield job, process(job, segmenter, settings)
        return
    # Imported here, because one image needs none of it.
    from cxrseg.runtime.batch.pool import Room, in_order
    from cxrseg.runtime.core.radiograph import MAX_PIXELS

    room = Room(MAX_PIXELS)

    def work(job: Job, interrupted: Callable[[], bool]) -> tuple[Job, Outcome]:
        pixels = count_pixels(job.source) if isinstance(job, Task) else 0
        with room.taken(pixels, interrupted):
            return job, process(job, segmenter, settings, interrupted)

    with warnings.catch_warnings():
        # Filters belong to the process: a reader that sets its own would see another thread's.
        warnings.simplefilter("ignore")
        yield from in_order(work, jobs, workers)
