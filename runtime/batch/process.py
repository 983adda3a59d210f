"""Doing one job: read, segment, write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from cxrseg.runtime.batch.jobs import Done, Job, Outcome, Settings, Task, would_overwrite
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.files.atomic import prepare_folder
from cxrseg.runtime.readers.reading import fingerprint, read

if TYPE_CHECKING:
    from cxrseg.runtime.core.radiograph import Radiograph
    from cxrseg.runtime.segmenter import Segmenter

# numpy.ma is what the first percentile imports.
_PRELOADED = (
    "hashlib",
    "numpy.ma",
    "cxrseg.runtime.readers.raster",
    "cxrseg.runtime.writers.writing",
)


def preload() -> None:
    """Import what reading and writing need, before they are needed."""
    # What cannot be imported fails again where it is used, with the reason.
    with suppress(Exception):
        for name in _PRELOADED:
            import_module(name)


def read_ahead(job: Job) -> Job:
    """Read the image of a job, so that it need not be read when the model is there.

    A failure is left to `process`, which meets and reports it again.
    """
    with suppress(Exception):
        if isinstance(job, Task):
            return replace(job, ahead=_read(job.source))
    return job


def _read(source: Path) -> tuple[Radiograph, float]:
    """Return the image with its fingerprint, and how many ms it took."""
    start = perf_counter()
    # Taken first: should the file be changed meanwhile, the report is not that of the new one.
    content = fingerprint(source)
    radiograph = read(source)
    radiograph = replace(radiograph, provenance={**radiograph.provenance, "sha256": content})
    return radiograph, (perf_counter() - start) * 1000


def process(
    job: Job,
    segmenter: Segmenter,
    settings: Settings | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Do one job. A failure of one image never stops the others.

    Args:
        job: From `plan`.
        segmenter: The loaded model.
        settings: What to do; None = the defaults.
        interrupted: Tells whether to give up, with nothing written.

    Returns:
        What was done, or why not; no exception but KeyboardInterrupt and its like leaves here.

    Raises:
        KeyboardInterrupt: It was `interrupted`.
    """
    if isinstance(job, CxrsegError):
        return job
    try:
        with _named_failures(job.source):
            return _process(job, segmenter, settings or Settings(), interrupted)
    except CxrsegError as error:
        return error


@contextmanager
def _named_failures(source: Path) -> Iterator[None]:
    """Turn whatever is raised into an error of the image."""
    try:
        yield
    except CxrsegError:
        raise
    except MemoryError as error:
        cause = "not enough memory for this image"
        raise CxrsegError(source, cause, "close other programs") from error
    # A defect met on one image must not cost the operator all the others.
    except Exception as error:
        cause = f"unexpected failure ({type(error).__name__}: {error})"
        raise CxrsegError(source, cause, "please report it") from error


def _process(
    task: Task, segmenter: Segmenter, settings: Settings, interrupted: Callable[[], bool]
) -> Outcome:
    # Imported here, as is all that `preload` names: the model is loaded meanwhile.
    from cxrseg.runtime.writers.report import make_report
    from cxrseg.runtime.writers.writing import check_formats, write

    source, formats, deidentify = task.source, settings.formats, settings.deidentify
    if settings.resume and (earlier := _earlier_outcome(task, segmenter, settings)):
        return earlier
    radiograph, read_ms = task.ahead or _read(source)
    check_formats(formats, radiograph, source)
    _give_up_if(interrupted)
    result = segmenter.segment(radiograph, name=str(source))
    result = replace(result, timings={"read": read_ms, **result.timings})
    _give_up_if(interrupted)
    if settings.strict and result.flags:
        return Done(source, task.outputs(()), make_report(result, radiograph, source, ()))
    if task.folder is not None:
        prepare_folder(task.folder, settings.durable)
    report = make_report(result, radiograph, source, formats, deidentify)
    outputs = write(
        result,
        radiograph,
        source,
        task.folder,
        formats,
        deidentify=deidentify,
        report=report,
        durable=settings.durable,
    )
    return Done(source, outputs, report)


def _earlier_outcome(task: Task, segmenter: Segmenter, settings: Settings) -> Outcome | None:
    """Return what an earlier run did of this image, or why it cannot be done; None = do it."""
    from cxrseg.runtime.batch.resume import earlier_owner, earlier_report

    report = earlier_report(task, segmenter.model.sha256, segmenter.labels, settings)
    if report is not None and not (settings.strict and report["flags"]):
        return Done(task.source, task.outputs(settings.formats), report, earlier=True)
    owner = earlier_owner(task)
    if owner is None or owner == task.source.name:
        return None
    return would_overwrite(task.source, task.source.with_name(owner))


def _give_up_if(interrupted: Callable[[], bool]) -> None:
    if interrupted():
        raise KeyboardInterrupt
