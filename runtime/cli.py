"""The command ``cxrseg-run``."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click

from cxrseg.runtime.core.labels import PROTOCOLS
from cxrseg.runtime.core.version import VERSION
from cxrseg.runtime.inference.devices import AUTO, DEVICES
from cxrseg.runtime.terminal.console import (
    OK,
    SectionedCommand,
    SectionedOption,
    echo,
    run_command,
)
from cxrseg.runtime.writers.paths import DEFAULT_FORMATS, FORMATS, Format

# A path need not exist: one that is missing must not keep the others from being done.
_PATH = click.Path(path_type=Path)


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
_many, _watching = _option("Many images"), _option("Watching folders")


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
    ' and sc (the overlay as Secondary Capture). The last two need the extra "cxrseg[dicom]". They'
    " join the study of the X-ray. A second run with the same model gives the same UIDs.",
)
@_results(
    "--deidentify",
    is_flag=True,
    help="Empty the patient's name, dates and numbers in seg and sc, and replace all UIDs (DICOM"
    " PS3.15, Basic Profile). Text inside the picture and in file names stays: check it yourself.",
)
@_results(
    "--strict",
    is_flag=True,
    help="Write nothing for an image with a flag (a reason to doubt its result), and end with exit"
    " code 3. Files of an earlier run stay. A model without a quality reference is refused.",
)
@_results(
    "--allow-unassessed",
    is_flag=True,
    help="With --strict: take a model without a quality reference. Only the flags that need none"
    " are raised then.",
)
@_results(
    "--csv",
    metavar="FILE",
    type=_PATH,
    help="Also write a table with one row per input: status (ok, flagged, error), error, flags,"
    " image size, pixel spacing and its source; area, height, width and probability of each lung;"
    " thoracic width (from outer edge to outer edge in one row), area ratio, model. Sizes are in"
    " pixels, and in mm where the spacing is known. Ctrl-C keeps the rows that are complete. - is"
    " standard output.",
)
@_results(
    "--jsonl",
    metavar="FILE",
    type=_PATH,
    help="Also write JSON Lines: one line per input, as soon as it is done, with what chest.json"
    " holds, source, status and error. All lines are complete whenever the run ends. - is standard"
    " output.",
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
    help="What to compute on. auto takes a graphics card if ONNX Runtime offers one, else the CPU."
    " Any other device is used, or the run fails.",
)
@_computing(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    default="fields",
    show_default=True,
    help="fields: the visible lung. whole: also behind the heart, if the model outlines that.",
)
@_computing(
    "--threads",
    metavar="N",
    type=click.IntRange(1, 256),
    help="CPU threads, shared by all images in work.  [default: one per physical core]",
)
@_many(
    "--jobs",
    metavar="N",
    type=click.IntRange(1, 64),
    help="Images in work at once. It does not change the results, but takes more memory."
    "  [default: one per CPU thread, at most 4]",
)
@_many(
    "--skip-existing",
    is_flag=True,
    help="Resume: skip an image that has not changed since all its files were written with this"
    " model, protocol and version of cxrseg. Its JSON report says so; --format needs json. --csv"
    " and --jsonl are written anew, with the numbers of skipped images from their reports. Images"
    " that failed, or that --strict withheld, are tried again.",
)
@_many(
    "-v",
    "--verbose",
    is_flag=True,
    help="Name the files that were left out of folders, and why. Their number is always told,"
    " unless cxrseg wrote all of them.",
)
@_watching(
    "--watch",
    is_flag=True,
    help="Watch folders, each INPUT one, until Ctrl-C. An image is done when its file is complete:"
    " unchanged for two seconds, and not named like x.png.part. The images that are there already"
    " come first, as with --skip-existing. Lines are added to --jsonl. Needs the extra"
    ' "cxrseg[watch]".',
)
@_watching(
    "--poll",
    is_flag=True,
    help="With --watch: look every five seconds. Needed on network drives, which give no notice of"
    " changes.",
)
@click.option(
    "--about",
    is_flag=True,
    help="Show versions, devices, and the model with its hash, labels and terms of use. Then exit.",
)
@click.version_option(VERSION)
def command(about: bool, **options: Any) -> int:
    """Outline the lungs on frontal chest X-rays.

    INPUT is an image (DICOM, PNG, JPEG, TIFF or BMP; 8 to 16 bit), a DICOMDIR, or a folder, which
    is searched with all folders in it. Everything stays on this computer.

    \b
    For chest.png it writes
      chest_lungs.png    the lungs: 0 = background, 1 = right lung, 2 = left lung
      chest_overlay.png  the X-ray with the outlines, to look at
      chest.json         areas, sizes, probabilities, flags, model version
    and, for chest.dcm with --format png,json,seg,sc
      chest_lungs.dcm    the lungs as DICOM Segmentation
      chest_overlay.dcm  the overlay as DICOM Secondary Capture

    Right and left are the patient's. Results of an earlier run are replaced. A file of the same
    name that cxrseg did not write is kept, and its image fails.

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
      0    everything was done, or Ctrl-C ended --watch
      1    some inputs failed, the others are done; or lines of the output were lost
      2    wrong usage
      3    --strict wrote nothing for some images, because they were flagged; none failed
      130  interrupted by Ctrl-C, SIGTERM or SIGHUP; files already written are complete, --csv too

    Not a diagnostic device. Look at each overlay before using its numbers.
    """
    # Imported here, so that --help and --version answer at once.
    if about:
        from cxrseg.runtime.about import about as facts

        for line in facts(options["model"], options["device"]):
            echo(line)
        return OK
    from cxrseg.runtime.batch.run import RunOptions, run

    return run(RunOptions(**options))


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command with `args`, by default the program's, and exit."""
    run_command(command, args)


def program() -> NoReturn:
    """Run the command as a process of its own, and end it at once.

    Of the time of one image, garbage collection during the imports would take a twentieth, and an
    orderly end of Python and ONNX Runtime a seventh. All files are closed by then. The thread that
    loads the model gets Python's lock within half a millisecond, not five, as it does by default.
    """
    if not sys.warnoptions:
        # What matters to the user of a file is told as a flag. Once for the process: a context in
        # one thread would end that of another.
        warnings.simplefilter("ignore")
    gc.disable()
    sys.setswitchinterval(5e-4)
    try:
        main()
    except SystemExit as end:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # whoever reads may have left
                stream.flush()
        os._exit(end.code if isinstance(end.code, int) else OK)


if __name__ == "__main__":
    program()
