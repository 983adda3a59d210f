"""One run of ``cxrseg-run``: plan, load the model, do the images, report each."""

from __future__ import annotations

import gc
from collections.abc import Generator, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cxrseg.runtime.batch.jobs import Job, Outcome, Settings
from cxrseg.runtime.batch.record import describe, describe_left_out, recording
from cxrseg.runtime.core.errors import CxrsegError, require_extra
from cxrseg.runtime.core.labels import Protocol
from cxrseg.runtime.files.atomic import prepare_output, remove_stale
from cxrseg.runtime.files.opening import is_standard_output
from cxrseg.runtime.terminal.console import FAILED, OK, echo, fail, progress
from cxrseg.runtime.terminal.interruption import interrupted, uninterrupted
from cxrseg.runtime.writers.paths import Format, dicom_among

if TYPE_CHECKING:
    from cxrseg.runtime.readers.folders import LeftOut
    from cxrseg.runtime.segmenter import Segmenter

FLAGGED = 3
"""Exit code of a strict run with flagged images."""

Outcomes = Generator[tuple[Job, Outcome], None, None]

_last: list[Segmenter] = []
"""The segmenter of the last run: the program ends without taking its model apart, which would cost
a fiftieth of the time of one image."""


@dataclass(frozen=True)
class RunOptions:
    """What a run was asked for; the options of the command, by their names.

    Raises:
        click.UsageError: Options contradict each other.
        CxrsegError: They need an extra that is not installed, or an input cannot be watched.
    """

    inputs: tuple[Path, ...]
    output: Path | None
    formats: tuple[Format, ...]
    deidentify: bool
    strict: bool
    allow_unassessed: bool
    csv: Path | None
    jsonl: Path | None
    model: Path | None
    device: str
    protocol: Protocol
    threads: int | None
    jobs: int | None
    skip_existing: bool
    watch: bool
    poll: bool
    verbose: bool

    @property
    def tables(self) -> list[Path]:
        """Where tables go."""
        return [path for path in (self.csv, self.jsonl) if path is not None]

    @property
    def settings(self) -> Settings:
        """What to do with each image."""
        resume = self.skip_existing or self.watch
        return Settings(self.formats, self.deidentify, self.strict, resume, durable=self.watch)

    def __post_init__(self) -> None:
        if not self.inputs:
            raise click.UsageError("Missing argument 'INPUT...'.")
        self._check_outputs()
        if self.watch:
            self._check_watch()
        elif self.poll:
            raise click.UsageError("--poll is about --watch")

    def _check_outputs(self) -> None:
        for_dicom = dicom_among(self.formats)
        if for_dicom:
            require_extra(f"--format {','.join(for_dicom)}", "dicom", ["highdicom"])
        elif self.deidentify:
            raise click.UsageError("--deidentify is about DICOM outputs: add seg or sc to --format")
        if self.settings.resume and "json" not in self.formats:
            option = "--watch" if self.watch else "--skip-existing"
            raise click.UsageError(f"{option} looks into the JSON reports: add json to --format")
        if self.allow_unassessed and not self.strict:
            raise click.UsageError("--allow-unassessed is about --strict")
        if self.csv and self.jsonl:
            # Imported here, because few runs write tables.
            from cxrseg.runtime.files.apart import place_key

            if place_key(self.csv) == place_key(self.jsonl):
                raise click.UsageError("--csv and --jsonl name the same file")

    def _check_watch(self) -> None:
        if self.csv is not None:
            raise click.UsageError("--csv is written at the end: take --jsonl with --watch")
        require_extra("--watch", "watch", ["watchdog"])
        for folder in self.inputs:
            if not folder.exists():
                raise CxrsegError(folder, "no such folder", "make it, or check the name")
            if not folder.is_dir():
                cause = "is not a folder, so nothing can arrive in it"
                remedy = "give the folder that the images arrive in, without --watch for files"
                raise CxrsegError(folder, cause, remedy)


def run(options: RunOptions) -> int:
    """Plan, load the model, do the images and report each.

    Returns:
        The exit code.

    Raises:
        CxrsegError: Nothing could be done at all.
    """
    # Imported here, so that wrong usage is reported at once.
    from cxrseg.runtime.batch import plan, process, workers
    from cxrseg.runtime.inference.loading import Loading
    from cxrseg.runtime.inference.session import default_threads
    from cxrseg.runtime.models.shipped import default_model

    settings = options.settings
    planner = plan.Planner(options.output, settings)
    jobs = [] if options.watch else planner.jobs(plan.search(options.inputs))
    model = options.model or default_model()
    read = [*options.inputs, model]
    planner.require_apart(options.tables, read, None if options.watch else jobs)
    images = workers.MAX_JOBS if options.watch else len(jobs)
    threads = options.threads or default_threads()
    count = options.jobs or workers.default_workers(images, threads)
    loading = Loading(
        model,
        options.device,
        workers.threads_each(threads, count),
        once=images == 1,
    )

    # Interrupted imports would print tracebacks.
    with uninterrupted():
        # While the model file is read, and first: nothing goes on without it.
        import onnxruntime  # noqa: F401

        # All that is next is imported while the model is loaded.
        from cxrseg.runtime.segmenter import Segmenter

        process.preload()
    if images == 1 and not settings.resume:
        jobs = [process.read_ahead(job) for job in jobs]
    segmenter = Segmenter(loading, protocol=options.protocol)
    _last[:] = [segmenter]
    _report_not_assessed(segmenter, refuse=options.strict and not options.allow_unassessed)
    if not gc.isenabled():
        # What the imports have made stays, so it is never looked through: 10 ms of the first image.
        gc.freeze()
        gc.enable()
    _prepare_output(options)
    if options.watch:
        return _report(options, _watched(options, segmenter, count))
    code = _report(options, workers.process_all(jobs, segmenter, settings, count), len(jobs))
    _report_left_out(planner.left_out, options.verbose)
    return code


def _prepare_output(options: RunOptions) -> None:
    """Create the output folder.

    Raises:
        CxrsegError: It cannot be created, and waiting for it is not the task or would not help.
    """
    if options.output is None:
        return
    try:
        prepare_output(options.output)
    except CxrsegError as error:
        from cxrseg.runtime.batch.transient import may_pass

        # A full disk, or a drive that is not there yet, is waited for with the first image.
        if not (options.watch and may_pass(error)):
            raise
        fail(error)


def _report_not_assessed(segmenter: Segmenter, refuse: bool) -> None:
    """Say once which flags cannot be judged for want of a quality reference, or refuse the model.

    Raises:
        CxrsegError: There are such flags, and `refuse` is true.
    """
    if not segmenter.not_assessed:
        return
    lacks = f"has no quality reference for protocol {segmenter.labels[0].protocol}"
    if len(segmenter.labels) < 2:
        lacks = "outlines one lung alone, which no quality reference judges"
    codes = ", ".join(segmenter.not_assessed)
    if refuse:
        remedy = "fit one with cxrseg-bench quality-fit or cxrseg-export --quality-data"
        raise CxrsegError(
            segmenter.path,
            f"{lacks}, so --strict cannot judge {codes}",
            f"{remedy}, or add --allow-unassessed",
        )
    echo(f"{segmenter.path}: {lacks}; not assessed: {codes}", err=True)


def _report_left_out(left_out: Sequence[LeftOut], verbose: bool) -> None:
    """Say how many files a search left out and why, and which if `verbose`.

    That it left out cxrseg's own files, and no others, is told if `verbose`.
    """
    from cxrseg.runtime.readers.folders import OURS

    if verbose:
        for each in left_out:
            echo(f"{each.path}: left out ({each.reason})", err=True)
    if verbose or any(each.reason != OURS for each in left_out):
        echo(describe_left_out(left_out, named=verbose), err=True)


def _watched(options: RunOptions, segmenter: Segmenter, count: int) -> Outcomes:
    from cxrseg.runtime.batch.watch import watch
    from cxrseg.runtime.batch.watcher import Watcher

    folders = ", ".join(map(str, options.inputs))
    echo(f"watching {folders}; Ctrl-C ends it", err=True)
    watcher = Watcher(options.inputs, options.poll, fail)
    return watch(watcher, options.output, segmenter, options.settings, count)


def _report(options: RunOptions, outcomes: Outcomes, total: int = 0) -> int:
    """Print the line of each image, record it in the tables, and return the exit code."""
    code, homes, lost = OK, set[Path](), set[str]()

    def lose(error: CxrsegError) -> None:
        if str(error) not in lost:
            fail(error)
        lost.add(str(error))

    # A table is alone on standard output, so that a program can read it.
    taken = any(map(is_standard_output, options.tables))
    with (
        recording(options.csv, options.jsonl, options.watch, lose) as record,
        progress(total) as lines,
        suppress(KeyboardInterrupt) if options.watch else nullcontext(),
        closing(outcomes),
    ):
        for job, outcome in outcomes:
            if not isinstance(job, CxrsegError):
                homes.add(job.home)
            if isinstance(outcome, CxrsegError):
                code = FAILED
                lines.done(f"error: {outcome}", err=True)
            else:
                code = code or (FLAGGED if outcome.withheld else OK)
                lines.done(describe(outcome), err=taken)
            record(job, outcome)
            if interrupted():
                raise KeyboardInterrupt
    if options.settings.resume:
        remove_stale(homes)
    if options.watch:
        return OK
    return FAILED if lost else code
