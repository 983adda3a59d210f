"""Many images, one after another: a failure of one never stops the others."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from threading import Thread
from time import perf_counter
from typing import TYPE_CHECKING

from cxrseg.runtime.errors import CxrsegError
from cxrseg.runtime.outputs import DEFAULT_FORMATS, FORMATS, IMAGE_ENDS, Format, Outputs
from cxrseg.runtime.readers import read, scan

if TYPE_CHECKING:
    from cxrseg.runtime.measurements import Measurements
    from cxrseg.runtime.segmentation import Segmentation
    from cxrseg.runtime.segmenter import Segmenter


@dataclass(frozen=True)
class Done:
    """An image that was segmented and written.

    Attributes:
        source: The image.
        outputs: The files written; no format where it was withheld.
        segmentation: The result.
        measured: The lungs' sizes.
    """

    source: Path
    outputs: Outputs
    segmentation: Segmentation
    measured: Measurements

    @property
    def withheld(self) -> bool:
        """Whether nothing was written, because the image is flagged."""
        return not self.outputs.formats


# numpy.ma is what the first percentile imports. The writers come last: they import OpenCV, which
# holds Python's lock for long, and by then the model's file has been read.
_PRELOADED = ("numpy.ma", "cxrseg.runtime.readers.raster", "cxrseg.runtime.writers")


@dataclass(frozen=True)
class Task:
    """An image to do.

    Attributes:
        source: The image.
        folder: Folder for its outputs, made if needed; None = beside the image.
    """

    source: Path
    folder: Path | None = None


Job = Task | CxrsegError
"""An image to do, or why an input cannot be done."""


def prepare_folder(folder: Path) -> None:
    """Create the output folder where there is none.

    Raises:
        CxrsegError: It cannot be created or is a file.
    """
    remedy = "choose another folder with -o"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise CxrsegError(folder, "is a file, not a folder", remedy) from error
    except OSError as error:
        cause = f"the output folder cannot be created ({error.strerror})"
        raise CxrsegError(folder, cause, remedy) from error


def plan(
    inputs: Iterable[Path],
    folder: Path | None = None,
    formats: Collection[Format] = DEFAULT_FORMATS,
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

    Returns:
        One job per image, in order.
    """
    jobs: list[Job] = []
    for path in inputs:
        for found in scan(path):
            if isinstance(found, CxrsegError):
                jobs.append(found)
            else:
                jobs.append(Task(found.path, None if folder is None else folder / found.below))
    sources = [job.source for job in jobs if isinstance(job, Task)]
    images = {_key(source) for source in sources}
    products = {_key(x) for source in sources for x in Outputs.of(source, None, FORMATS)}

    planned: list[Job] = []
    seen: set[str] = set()
    owners: dict[str, Path] = {}
    for job in jobs:
        if isinstance(job, CxrsegError):
            planned.append(job)
            continue
        source = job.source
        key = _key(source)
        if key in seen or (key in products and source.name.endswith(IMAGE_ENDS)):
            continue
        seen.add(key)
        outputs = Outputs.of(source, job.folder, formats)
        overwritten = next((x for x in outputs if _key(x) in images and folder is not None), None)
        owner = owners.setdefault(_key(outputs.report), source)
        if overwritten is not None:
            cause = f"its output {overwritten.name} would overwrite an input file"
            planned.append(CxrsegError(source, cause, "choose another folder with -o"))
        elif owner is not source:
            cause = f"its outputs would overwrite those of {owner}"
            remedy = "rename it, or run it with another -o folder"
            planned.append(CxrsegError(source, cause, remedy))
        else:
            planned.append(job)
    return planned


def preload() -> None:
    """Start to import what reading and writing need, and return at once.

    ONNX Runtime loads a model without holding Python's lock: both go on side by side.
    """
    # No daemon: a program that ends while a library is half loaded may crash.
    Thread(target=_import_all, name="preload").start()


def _import_all() -> None:
    # What cannot be imported is told where it is used.
    with suppress(Exception):
        for name in _PRELOADED:
            import_module(name)


def process(
    job: Job,
    segmenter: Segmenter,
    formats: Collection[Format] = DEFAULT_FORMATS,
    deidentify: bool = False,
    strict: bool = False,
) -> Done | CxrsegError:
    """Do one job.

    Args:
        job: From `plan`.
        segmenter: The loaded model.
        formats: What to write.
        deidentify: As `write` takes it.
        strict: Write nothing for an image that is flagged.

    Returns:
        What was done, or why not; no exception but KeyboardInterrupt and its like leaves here.
    """
    from cxrseg.runtime.writers import check_formats, measure_result, write

    if isinstance(job, CxrsegError):
        return job
    source = job.source
    try:
        start = perf_counter()
        radiograph = read(source)
        read_ms = (perf_counter() - start) * 1000
        check_formats(formats, radiograph, source)
        result = segmenter.segment(radiograph, name=str(source))
        result = replace(result, timings={"read": read_ms, **result.timings})
        sizes = measure_result(result, radiograph)
        if strict and result.flags:
            return Done(source, Outputs.of(source, job.folder, ()), result, sizes)
        if job.folder is not None:
            prepare_folder(job.folder)
        outputs = write(result, radiograph, source, job.folder, formats, deidentify, sizes)
        return Done(source, outputs, result, sizes)
    except CxrsegError as error:
        return error
    except MemoryError:
        return CxrsegError(source, "not enough memory for this image", "close other programs")
    # A defect met on one image must not cost the operator all the others.
    except Exception as error:
        cause = f"unexpected failure ({type(error).__name__}: {error})"
        return CxrsegError(source, cause, "please report it")


def run(
    jobs: Iterable[Job],
    segmenter: Segmenter,
    formats: Collection[Format] = DEFAULT_FORMATS,
    deidentify: bool = False,
    strict: bool = False,
) -> Iterator[Done | CxrsegError]:
    """Do the jobs one by one, giving each outcome as soon as it is known."""
    for job in jobs:
        yield process(job, segmenter, formats, deidentify, strict)


def _key(path: Path) -> str:
    """Return one text per file, however it is spelled."""
    try:
        return os.path.normcase(path.resolve())
    # A loop of links, or a folder that may not be entered: reading it will tell.
    except (OSError, RuntimeError):
        return os.path.normcase(path.absolute())
