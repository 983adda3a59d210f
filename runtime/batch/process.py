"""Many images: a failure of one never stops the others."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from cxrseg.runtime.core.atomic import prepare_folder
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.own_files import is_our_image_name
from cxrseg.runtime.readers.folders import ImageFile, scan
from cxrseg.runtime.readers.reading import fingerprint, read
from cxrseg.runtime.writers.paths import DEFAULT_FORMATS, FORMATS, Format, Outputs
from cxrseg.runtime.writers.report import Report

if TYPE_CHECKING:
    from cxrseg.runtime.core.radiograph import Radiograph
    from cxrseg.runtime.segmenter import Segmenter

MAX_JOBS = 4
"""Most images in work at once unless told otherwise: each is in memory several times over."""


@dataclass(frozen=True)
class Settings:
    """What to do with each image.

    Attributes:
        formats: What to write.
        deidentify: As `write` takes it.
        strict: Write nothing for an image that is flagged.
        resume: Leave out an image that an earlier run has done, with the same model and settings,
            as `earlier_report` tells; ``json`` is among the formats.
    """

    formats: tuple[Format, ...] = DEFAULT_FORMATS
    deidentify: bool = False
    strict: bool = False
    resume: bool = False


@dataclass(frozen=True)
class Done:
    """An image that was segmented and written.

    Attributes:
        source: The image.
        outputs: The files written; no format where it was withheld.
        report: What the JSON report holds, whether or not it was written.
        earlier: Whether an earlier run did it.
    """

    source: Path
    outputs: Outputs
    report: Report
    earlier: bool = False

    @property
    def withheld(self) -> bool:
        """Whether nothing was written, because the image is flagged."""
        return not self.outputs.formats


# numpy.ma is what the first percentile imports.
_PRELOADED = (
    "hashlib",
    "numpy.ma",
    "cxrseg.runtime.readers.raster",
    "cxrseg.runtime.writers.writing",
)


@dataclass(frozen=True)
class Task:
    """An image to do.

    Attributes:
        source: The image.
        folder: Folder for its outputs, made if needed; None = beside the image.
        ahead: The image and the ms that it took, where it has been read before its turn.
    """

    source: Path
    folder: Path | None = None
    ahead: tuple[Radiograph, float] | None = field(default=None, compare=False, repr=False)

    @property
    def home(self) -> Path:
        """Where its outputs lie."""
        return self.source.parent if self.folder is None else self.folder


Job = Task | CxrsegError
"""An image to do, or why an input cannot be done."""


def plan(
    inputs: Iterable[Path],
    folder: Path | None = None,
    formats: Collection[Format] = DEFAULT_FORMATS,
    resume: bool = False,
) -> list[Job]:
    """Decide what to do with each input before anything is done.

    Folders are replaced by their images and an image named twice is done once. An image whose
    outputs would replace another's, or an input, becomes an error. cxrseg's outputs of an image
    that is itself among the inputs are left out, so that ``*.png`` can be run again.

    Args:
        inputs: Files, folders and DICOMDIR files.
        folder: Where outputs go, in the same sub-folders as the images of a folder lie in;
            None = beside each image.
        formats: What will be written.
        resume: Of two images with the same outputs, the one that an earlier run did keeps them;
            else the first.

    Returns:
        One job per image, in order.
    """
    images = (found for path in inputs for found in scan(path))
    return arrange(images, folder, formats, resume, {})


def arrange(
    images: Iterable[ImageFile | CxrsegError],
    folder: Path | None,
    formats: Collection[Format],
    resume: bool,
    owners: dict[str, Path],
) -> list[Job]:
    """Decide what to do with images that were found, as `plan` does.

    Args:
        images: From `scan`.
        folder: As `plan` takes it.
        formats: As `plan` takes it.
        resume: As `plan` takes it.
        owners: Place of a report -> the image that has it; gets those of `images`. An owner that is
            gone loses it.
    """
    home = _home_keys()
    keyed = [(x, "" if isinstance(x, CxrsegError) else _key(x.path)) for x in images]
    inputs = {key for _, key in keyed}
    sources = [x.path for x, _ in keyed if isinstance(x, ImageFile)]
    products: set[str] = set()
    if any(is_our_image_name(source.name) for source in sources):
        products = {home(x) for source in sources for x in Outputs.of(source, None, FORMATS)}

    planned: list[Job] = []
    seen: set[str] = set()
    for found, key in keyed:
        if isinstance(found, CxrsegError):
            planned.append(found)
            continue
        source = found.path
        if key in seen or (key in products and is_our_image_name(source.name)):
            continue
        seen.add(key)
        task = Task(source, None if folder is None else folder / found.subfolder)
        outputs = Outputs.of(source, task.folder, formats)
        overwritten = next((x for x in outputs if home(x) in inputs and folder is not None), None)
        place = home(outputs.report)
        taken = owners.get(place, source)
        if overwritten is not None:
            cause = f"its output {overwritten.name} would overwrite an input file"
            planned.append(CxrsegError(source, cause, "choose another folder with -o"))
        # Not Path's exists, which fails on a name that is too long.
        elif (
            taken != source
            and os.path.exists(taken)  # noqa: PTH110
            and not (resume and _earlier_owner(task) == source.name)
        ):
            planned.append(_would_overwrite(source, taken))
        else:
            owners[place] = source
            planned.append(task)
    return planned


def _earlier_owner(task: Task) -> str | None:
    from cxrseg.runtime.batch.resume import owner

    return owner(task.source, Outputs.of(task.source, task.folder))


def _would_overwrite(source: Path, owner: Path) -> CxrsegError:
    cause = f"its outputs would overwrite those of {owner}"
    return CxrsegError(source, cause, "rename it, or run it with another -o folder")


def preload() -> None:
    """Import what reading and writing need, before they are needed."""
    # What cannot be imported is told where it is used.
    with suppress(Exception):
        for name in _PRELOADED:
            import_module(name)


def read_ahead(job: Job) -> Job:
    """Read the image of a job, so that it need not be read when the model is there.

    What goes wrong is left for `process` to meet again and tell.
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


Outcome = Done | CxrsegError
"""What became of a job."""


def process(
    job: Job,
    segmenter: Segmenter,
    settings: Settings | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Do one job.

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
    from cxrseg.runtime.writers.report import make_report
    from cxrseg.runtime.writers.writing import check_formats, write

    if isinstance(job, CxrsegError):
        return job
    if settings is None:
        settings = Settings()
    formats, deidentify = settings.formats, settings.deidentify
    source = job.source
    try:
        if settings.resume:
            if done := _done_before(job, segmenter, settings):
                return done
            if (owner := _earlier_owner(job)) not in (None, source.name):
                return _would_overwrite(source, source.with_name(owner))
        radiograph, read_ms = job.ahead or _read(source)
        check_formats(formats, radiograph, source)
        _give_up_if(interrupted)
        result = segmenter.segment(radiograph, name=str(source))
        result = replace(result, timings={"read": read_ms, **result.timings})
        _give_up_if(interrupted)
        if settings.strict and result.flags:
            report = make_report(result, radiograph, source, ())
            return Done(source, Outputs.of(source, job.folder, ()), report)
        if job.folder is not None:
            prepare_folder(job.folder)
        report = make_report(result, radiograph, source, formats, deidentify)
        outputs = write(result, radiograph, source, job.folder, formats, deidentify, report)
        return Done(source, outputs, report)
    except CxrsegError as error:
        return error
    except MemoryError:
        return CxrsegError(source, "not enough memory for this image", "close other programs")
    # A defect met on one image must not cost the operator all the others.
    except Exception as error:
        cause = f"unexpected failure ({type(error).__name__}: {error})"
        return CxrsegError(source, cause, "please report it")


def _done_before(job: Task, segmenter: Segmenter, settings: Settings) -> Done | None:
    from cxrseg.runtime.batch.resume import earlier_report

    outputs = Outputs.of(job.source, job.folder, settings.formats)
    report = earlier_report(
        job.source, outputs, segmenter.model.sha256, segmenter.labels, settings.deidentify
    )
    if report is None or (settings.strict and report["flags"]):
        return None
    return Done(job.source, outputs, report, earlier=True)


def _give_up_if(interrupted: Callable[[], bool]) -> None:
    if interrupted():
        raise KeyboardInterrupt


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


def run(
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
        workers: Images in work at once. Results are the same whatever their number. Close the
            iterator where it is left early: it waits for what is in work.
    """
    if workers == 1:
        for job in jobs:
            yield job, process(job, segmenter, settings)
        return
    # Imported here, because one image needs none of it.
    from cxrseg.runtime.batch.pool import in_order

    with warnings.catch_warnings():
        # Filters belong to the process: a reader that sets its own would see another thread's.
        warnings.simplefilter("ignore")
        yield from in_order(
            lambda job, interrupted: (job, process(job, segmenter, settings, interrupted)),
            jobs,
            workers,
        )


def _home_keys() -> Callable[[Path], str]:
    """Return a function that gives one text per place of a file, asking once for each folder."""
    folders: dict[Path, str] = {}

    def key(path: Path) -> str:
        folder = path.parent
        if folder not in folders:
            folders[folder] = _key(folder)
        return os.path.normcase(Path(folders[folder], path.name))

    return key


def _key(path: Path) -> str:
    """Return one text per file, however it is spelled."""
    try:
        return os.path.normcase(path.resolve())
    # A loop of links, or a folder that may not be entered: reading it will tell.
    except (OSError, RuntimeError):
        return os.path.normcase(path.absolute())
