"""The command ``cxrseg-run``."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from cxrseg.runtime.core.errors import CxrsegError, require_extra
from cxrseg.runtime.core.labels import PROTOCOLS, Protocol
from cxrseg.runtime.core.version import VERSION
from cxrseg.runtime.inference.devices import AUTO, DEVICES
from cxrseg.runtime.terminal.console import (
    FAILED,
    OK,
    SectionedCommand,
    SectionedOption,
    echo,
    fail,
    progress,
    run_command,
)
from cxrseg.runtime.writers.paths import DEFAULT_FORMATS, DICOM_FORMATS, FORMATS, Format

if TYPE_CHECKING:
    from cxrseg.runtime.batch.process import Done, Job, Outcome
    from cxrseg.runtime.writers.tables import Record, Status

# A path need not exist: one that is missing must not keep the others from being done.
_PATH = click.Path(path_type=Path)

FLAGGED = 3
"""Exit code of a strict run with flagged images."""


def _formats(_context: click.Context, _option: click.Parameter, text: str) -> tuple[Format, ...]:
    """Read the value of --format."""
    names = [name.strip().lower() for name in text.split(",")]
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        offered = ", ".join(FORMATS)
        raise click.BadParameter(f"{unknown[0]!r} is not one of {offered}, joined by commas")
    return tuple(name for name in FORMATS if name in names)


def _option(section: str) -> Callable[..., Callable[[Any], Any]]:
    return partial(click.option, cls=SectionedOption, section=section)


_results, _computing = _option("What is written"), _option("How it is computed")
_many, _watching = _option("Many images"), _option("A folder that fills")


@click.command(
    "cxrseg-run",
    cls=SectionedCommand,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("inputs", metavar="INPUT...", nargs=-1, type=_PATH)
@_results(
    "-o",
    "--output",
    metavar="DIR",
    type=_PATH,
    help="Folder for the results, made if needed.  [default: beside each image]",
)
@_results(
    "--format",
    "formats",
    metavar="LIST",
    default=",".join(DEFAULT_FORMATS),
    show_default=True,
    callback=_formats,
    help="What to write, joined by commas: png, json, and for DICOM inputs seg (DICOM Segmentation)"
    ' and sc (the overlay as Secondary Capture), which need the extra "cxrseg[dicom]". They join'
    " the study of the X-ray; a run again with the same model gives the same UIDs.",
)
@_results(
    "--deidentify",
    is_flag=True,
    help="Empty the patient's name, dates and numbers in seg and sc and replace all UIDs (DICOM"
    " PS3.15, Basic Profile). Words in the picture and file names stay: look at them.",
)
@_results(
    "--strict",
    is_flag=True,
    help="Write nothing for an image with a flag (a reason to doubt its result) and end with exit"
    " code 3. Files of an earlier run stay.",
)
@_results(
    "--csv",
    "table",
    metavar="FILE",
    type=_PATH,
    help="Also write a table, one row per input: status (ok, flagged, error), error, flags, image"
    " size, pixel spacing and its source; for each lung area, height, width, probability; thoracic"
    " width (outer edge to outer edge in one row), area ratio, model. In pixels, and in mm where"
    " the spacing is known. Kept on Ctrl-C.",
)
@_results(
    "--jsonl",
    "lines",
    metavar="FILE",
    type=_PATH,
    help="Also write JSON Lines, one line per input as soon as it is done: what chest.json holds,"
    " with source, status and error. Complete up to there whenever the run ends.",
)
@_computing(
    "--model",
    metavar="FILE",
    type=_PATH,
    help="Model file (.onnx) written by cxrseg-export.  [default: the one that ships with cxrseg]",
)
@_computing(
    "--device",
    type=click.Choice(DEVICES),
    default=AUTO,
    show_default=True,
    help="What to compute on. auto takes a graphics card if ONNX Runtime offers one, else the CPU;"
    " a device that is named and not available is an error.",
)
@_computing(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    default="fields",
    show_default=True,
    help="fields: the visible lung. whole: with the lung behind the heart, if the model knows it.",
)
@_computing(
    "--threads",
    metavar="N",
    type=click.IntRange(1, 256),
    help="CPU threads, for all images in work.  [default: one per physical core]",
)
@_many(
    "--jobs",
    metavar="N",
    type=click.IntRange(1, 64),
    help="Images in work at once. The results are the same; large images need more memory."
    "  [default: one per CPU thread, at most 4]",
)
@_many(
    "--skip-existing",
    is_flag=True,
    help="Resume: leave out an image whose files are all there, from this model, protocol and"
    " version of cxrseg, as its JSON report tells (--format needs json), and that has not been"
    " changed since. --csv and --jsonl are written anew, with its numbers from the report. What"
    " failed, or was withheld by --strict, is tried again.",
)
@_watching(
    "--watch",
    "watching",
    is_flag=True,
    help="Go on until Ctrl-C, for a modality that drops files: each INPUT is a folder, and an image"
    " is done when its file is complete (unchanged for two seconds). Those that are there come"
    " first, as with --skip-existing; lines are added to --jsonl. Names like x.png.part wait until"
    ' they are renamed. Needs the extra "cxrseg[watch]".',
)
@_watching(
    "--poll",
    is_flag=True,
    help="With --watch: look every five seconds. For network drives, which do not tell of changes.",
)
@click.option(
    "--about",
    is_flag=True,
    help="Show versions, devices, the model with its hash, labels and terms of use, and exit;"
    " needs no INPUT.",
)
@click.version_option(VERSION)
def command(
    inputs: tuple[Path, ...],
    output: Path | None,
    formats: tuple[Format, ...],
    deidentify: bool,
    strict: bool,
    table: Path | None,
    lines: Path | None,
    model: Path | None,
    device: str,
    protocol: Protocol,
    threads: int | None,
    jobs: int | None,
    skip_existing: bool,
    watching: bool,
    poll: bool,
    about: bool,
) -> int:
    """Outline the lungs on frontal chest X-rays.

    INPUT is an image (DICOM, PNG, JPEG, TIFF or BMP; 8 to 16 bit), a DICOMDIR, or a folder, which
    is searched with the folders in it. Everything stays on this computer.

    \b
    For chest.png it writes
      chest_lungs.png    the lungs: 0 = background, 1 = right lung, 2 = left lung
      chest_overlay.png  the X-ray with the outlines, to look at
      chest.json         areas, sizes, probabilities, flags, model version
    and, for chest.dcm with --format png,json,seg,sc
      chest_lungs.dcm    the lungs as DICOM Segmentation
      chest_overlay.dcm  the overlay as DICOM Secondary Capture

    Right and left are the patient's. Results of an earlier run are replaced; a file of the same
    name that cxrseg did not write is kept, and that image fails.

    \b
    Examples
      cxrseg-run chest.png                one image, results beside it
      cxrseg-run -o results X:\\xrays      all images of a folder
      cxrseg-run --device cpu a.png b.jpg
      cxrseg-run --format seg a.dcm       a segmentation for the archive
      cxrseg-run --csv all.csv X:\\xrays   all numbers in one table
      cxrseg-run --skip-existing -o results X:\\xrays    what is still to do
      cxrseg-run --watch -o results X:\\incoming         whatever arrives

    \b
    Exit codes
      0    everything was done; or --watch was ended by Ctrl-C
      1    some input failed; the others are done
      2    wrong usage
      3    with --strict: some image was flagged, so nothing was written for it; none failed
      130  interrupted by Ctrl-C; files already written are complete

    Not a diagnostic device. Look at each overlay before using its numbers.
    """
    if about:
        # Imported here, as below.
        from cxrseg.runtime.about import about as facts

        for line in facts(model, device):
            echo(line)
        return OK
    if not inputs:
        raise click.UsageError("Missing argument 'INPUT...'.")
    for_dicom = [name for name in DICOM_FORMATS if name in formats]
    if for_dicom:
        require_extra(f"--format {','.join(for_dicom)}", "dicom", ["highdicom"])
    elif deidentify:
        raise click.UsageError("--deidentify is about DICOM outputs: add seg or sc to --format")
    resume = skip_existing or watching
    if resume and "json" not in formats:
        option = "--watch" if watching else "--skip-existing"
        raise click.UsageError(f"{option} looks into the JSON reports: add json to --format")
    if table is not None and table == lines:
        raise click.UsageError("--csv and --jsonl name the same file")
    if poll and not watching:
        raise click.UsageError("--poll is about --watch")
    if watching:
        if table is not None:
            raise click.UsageError("--csv is written at the end: take --jsonl with --watch")
        check_watch(inputs)
    # Imported here, so that --help and --version answer at once.
    import onnxruntime  # noqa: F401

    from cxrseg.runtime.batch import process as batch
    from cxrseg.runtime.inference.session import Loading, default_threads
    from cxrseg.runtime.models import default_model

    planned = [] if watching else batch.plan(inputs, output, formats, resume)
    threads = threads or default_threads()
    images = batch.MAX_JOBS if watching else len(planned)
    workers = jobs or batch.default_workers(images, threads)
    threads_each = batch.threads_each(threads, workers)
    loading = Loading(model or default_model(), device, threads_each, once=images == 1)

    # All that is next is imported while the model is loaded.
    from cxrseg.runtime.core.atomic import prepare_folder, remove_stale
    from cxrseg.runtime.segmenter import Segmenter
    from cxrseg.runtime.writers.tables import summary

    batch.preload()
    if images == 1 and not resume:
        planned = [batch.read_ahead(job) for job in planned]
    segmenter = Segmenter(loading, protocol=protocol)
    gc.enable()
    if output is not None:
        prepare_folder(output)
    settings = batch.Settings(formats, deidentify, strict, resume)
    outcomes: Generator[tuple[Job, Outcome], None, None]
    if watching:
        from cxrseg.runtime.batch.watch import Watcher, watch

        outcomes = watch(Watcher(inputs, poll, fail), output, segmenter, settings, workers)
    else:
        outcomes = batch.run(planned, segmenter, settings, workers)

    code, homes = OK, set[Path]()
    with (
        summary(table, lines, append=watching) as add,
        progress(len(planned)) as told,
        _until_interrupted(inputs) if watching else nullcontext(),
        closing(outcomes),
    ):
        for job, outcome in outcomes:
            if isinstance(job, batch.Task):
                homes.add(job.home)
            if isinstance(outcome, CxrsegError):
                code = FAILED
                told.done(f"error: {outcome}", err=True)
            else:
                code = code or (FLAGGED if outcome.withheld else OK)
                told.done(describe(outcome))
            add(record(job, outcome))
    if resume:
        remove_stale(homes)
    return OK if watching else code


def check_watch(folders: Sequence[Path]) -> None:
    """Refuse what cannot be watched.

    Raises:
        CxrsegError: An input is no folder, or the extra is not installed.
    """
    require_extra("--watch", "watch", ["watchdog"])
    for folder in folders:
        if not folder.is_dir():
            cause = "is not a folder, so nothing can arrive in it"
            remedy = "give the folder that the images arrive in, without --watch for files"
            if not folder.exists():
                cause, remedy = "no such folder", "make it, or check the name"
            raise CxrsegError(folder, cause, remedy)


@contextmanager
def _until_interrupted(folders: Sequence[Path]) -> Iterator[None]:
    """Let Ctrl-C end the block in good order, and what services are ended with, too."""
    import signal

    echo(f"watching {', '.join(map(str, folders))}; Ctrl-C ends it", err=True)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def record(job: Job, outcome: Outcome) -> Record:
    """Return what is recorded of one input."""
    from cxrseg.runtime.writers.tables import Record

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


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command with `args`, by default the program's, and exit."""
    run_command(command, args)


def program() -> NoReturn:
    """Run the command as a process of its own.

    Looking for garbage while modules are imported would take a twentieth of the time of one image,
    and taking interpreter and ONNX Runtime down in order a seventh, for a process that ends; all
    files are closed by now.
    """
    gc.disable()
    try:
        main()
    except SystemExit as end:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # whoever reads may have left
                stream.flush()
        os._exit(end.code if isinstance(end.code, int) else OK)


if __name__ == "__main__":
    program()
