"""The command ``cxrseg-run``."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from cxrseg.runtime.console import FAILED, OK, progress, run_command
from cxrseg.runtime.devices import AUTO, DEVICES
from cxrseg.runtime.errors import CxrsegError
from cxrseg.runtime.labels import PROTOCOLS, Protocol
from cxrseg.runtime.version import VERSION

if TYPE_CHECKING:
    from cxrseg.runtime.batch import Done

# A path need not exist: one that is missing must not keep the others from being done.
_PATH = click.Path(path_type=Path)


@click.command(
    "cxrseg-run",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=_PATH)
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
@click.version_option(VERSION)
def command(
    inputs: tuple[Path, ...],
    output: Path | None,
    model: Path | None,
    device: str,
    protocol: Protocol,
    threads: int | None,
) -> int:
    """Outline the lungs on frontal chest X-rays.

    INPUT is an image (DICOM, PNG, JPEG, TIFF or BMP; 8 to 16 bit), a DICOMDIR, or a folder, which
    is searched with the folders in it. Everything stays on this computer.

    \b
    For chest.png it writes
      chest_lungs.png    the lungs: 0 = background, 1 = right lung, 2 = left lung
      chest_overlay.png  the X-ray with the outlines, to look at
      chest.json         areas, probabilities, flags, model version

    Right and left are the patient's. Results of an earlier run are replaced; a file of the same
    name that cxrseg did not write is kept, and that image fails.

    \b
    Examples
      cxrseg-run chest.png                one image, results beside it
      cxrseg-run -o results X:\\xrays      all images of a folder
      cxrseg-run --device cpu a.png b.jpg

    \b
    Exit codes
      0    everything was done
      1    some input failed; the others are done
      2    wrong usage
      130  interrupted by Ctrl-C; files already written are complete

    Not a diagnostic device. Look at each overlay before using its numbers.
    """
    # Imported here, so that --help and --version answer at once.
    import onnxruntime  # noqa: F401

    from cxrseg.runtime.batch import plan, preload, prepare_folder, run
    from cxrseg.runtime.segmenter import Segmenter

    # After ONNX Runtime's own import: the loading of the model must not wait for these.
    preload()
    segmenter = Segmenter(model, device, threads, protocol)
    if output is not None:
        prepare_folder(output)
    jobs = plan(inputs, output)
    code = OK
    with progress(len(jobs)) as lines:
        for outcome in run(jobs, segmenter):
            if isinstance(outcome, CxrsegError):
                code = FAILED
                lines.done(f"error: {outcome}", err=True)
            else:
                lines.done(describe(outcome))
    return code


def describe(done: Done) -> str:
    """Return the line that tells of one segmented image."""
    result = done.segmentation
    shares = ", ".join(
        f"{label.title} {100 * result.fraction[label.name]:.1f} %" for label in result.labels
    )
    ms = sum(result.timings.values())
    flags = "".join(f" [flag: {flag.reason}]" for flag in result.flags)
    return (
        f"{done.source}: {shares} of the image, {ms:.0f} ms"
        f" on {result.provider} -> {done.outputs.lungs}{flags}"
    )


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command with `args`, by default the program's, and exit."""
    # At the end Python looks for garbage among all objects: of no use to a process that ends.
    atexit.register(gc.freeze)
    run_command(command, args)


if __name__ == "__main__":
    main()
