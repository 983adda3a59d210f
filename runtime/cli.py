"""The command ``cxrseg-run``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from cxrseg.runtime.console import FAILED, OK, echo, progress, require_extra, run_command
from cxrseg.runtime.devices import AUTO, DEVICES
from cxrseg.runtime.errors import CxrsegError
from cxrseg.runtime.labels import PROTOCOLS, Protocol
from cxrseg.runtime.outputs import DEFAULT_FORMATS, DICOM_FORMATS, FORMATS, Format
from cxrseg.runtime.version import VERSION

if TYPE_CHECKING:
    from cxrseg.runtime.batch import Done

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


@click.command(
    "cxrseg-run",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("inputs", metavar="INPUT...", nargs=-1, type=_PATH)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=_PATH,
    help="Folder for the results, made if needed.  [default: beside each image]",
)
@click.option(
    "--model",
    metavar="FILE",
    type=_PATH,
    help="Model file (.onnx) written by cxrseg-export.  [default: the one that ships with cxrseg]",
)
@click.option(
    "--device",
    type=click.Choice(DEVICES),
    default=AUTO,
    show_default=True,
    help="What to compute on. auto takes a graphics card if ONNX Runtime offers one, else the CPU;"
    " a device that is named and not available is an error.",
)
@click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    default="fields",
    show_default=True,
    help="fields: the visible lung. whole: with the lung behind the heart, if the model knows it.",
)
@click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(1, 256),
    help="CPU threads.  [default: one per physical core]",
)
@click.option(
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
@click.option(
    "--deidentify",
    is_flag=True,
    help="Empty the patient's name, dates and numbers in seg and sc and replace all UIDs (DICOM"
    " PS3.15, Basic Profile). Words in the picture and file names stay: look at them.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Write nothing for an image with a flag (a reason to doubt its result) and end with exit"
    " code 3. Files of an earlier run stay.",
)
@click.option(
    "--csv",
    "table",
    metavar="FILE",
    type=_PATH,
    help="Also write a table, one row per input: status (ok, flagged, error), error, flags, image"
    " size, pixel spacing and its source; for each lung area, height, width, probability; thoracic"
    " width (outer edge to outer edge in one row), area ratio, model. In pixels, and in mm where"
    " the spacing is known. Kept on Ctrl-C.",
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
    model: Path | None,
    device: str,
    protocol: Protocol,
    threads: int | None,
    formats: tuple[Format, ...],
    deidentify: bool,
    strict: bool,
    table: Path | None,
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

    \b
    Exit codes
      0    everything was done
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
    # Imported here, so that --help and --version answer at once.
    import onnxruntime  # noqa: F401

    from cxrseg.runtime.batch import plan, preload, prepare_folder, run
    from cxrseg.runtime.segmenter import Segmenter
    from cxrseg.runtime.summary import failed_row, result_row, summary

    # After ONNX Runtime's own import: the loading of the model must not wait for these.
    preload()
    segmenter = Segmenter(model, device, threads, protocol)
    if output is not None:
        prepare_folder(output)
    jobs = plan(inputs, output, formats)
    code = OK
    with summary(table) as rows, progress(len(jobs)) as lines:
        outcomes = run(jobs, segmenter, formats, deidentify, strict)
        for job, outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, CxrsegError):
                code = FAILED
                lines.done(f"error: {outcome}", err=True)
                source = job.subject if isinstance(job, CxrsegError) else str(job.source)
                row = failed_row(source, outcome)
            else:
                lines.done(describe(outcome))
                if outcome.withheld:
                    code = code or FLAGGED
                result, sizes = outcome.segmentation, outcome.measured
                row = result_row(str(outcome.source), result, sizes, outcome.withheld)
            if rows is not None:
                rows.append(row)
    return code


def describe(done: Done) -> str:
    """Return the line that tells of one segmented image."""
    result = done.segmentation
    shares = ", ".join(
        f"{label.title} {100 * result.fraction[label.name]:.1f} %" for label in result.labels
    )
    ms = sum(result.timings.values())
    flags = "".join(f" [flag: {flag.reason}]" for flag in result.flags)
    written = "nothing, --strict" if done.withheld else next(iter(done.outputs))
    return (
        f"{done.source}: {shares} of the image, {ms:.0f} ms"
        f" on {result.provider} -> {written}{flags}"
    )


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command with `args`, by default the program's, and exit."""
    run_command(command, args)


def program() -> NoReturn:
    """Run the command as a process of its own.

    Taking interpreter and ONNX Runtime down in order would take a seventh of the time of one
    image, for a process that ends; all files are closed by now.
    """
    try:
        main()
    except SystemExit as end:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # whoever reads may have left
                stream.flush()
        os._exit(end.code if isinstance(end.code, int) else OK)


if __name__ == "__main__":
    program()
