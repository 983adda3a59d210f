"""The commands ``cxrseg-export`` and, the way back, ``cxrseg-recover``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click

from cxrseg.export.extra import require_export
from cxrseg.runtime.core.version import VERSION
from cxrseg.runtime.terminal.console import echo, run_command


def _say(command: str, text: str) -> None:
    echo(f"{command}: {text} ...", err=True)


@click.command(
    "cxrseg-export",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File to write.  [default: CHECKPOINT with the suffix .onnx]",
)
@click.option(
    "--profile",
    type=click.Choice(["cpu", "gpu"]),
    default="cpu",
    show_default=True,
    help="cpu: what is not INT8 is stored in FP16 and computed in FP32. gpu: it is computed in "
    "FP16, for CUDA, TensorRT, DirectML, CoreML and OpenVINO on a GPU.",
)
@click.option(
    "--precision",
    type=click.Choice(["int8", "fp32"]),
    default="int8",
    show_default=True,
    help="fp32 is for comparison. Of a network too large for one file (vit_h) the weights go to "
    "FILE.data beside it; cxrseg-run does not take those two.",
)
@click.option(
    "--verify-images",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="X-rays to compare masks on, at most 32 are used.  [default: synthetic images]",
)
@click.option(
    "--quality-data",
    type=click.Path(path_type=Path),
    metavar="CSV|DIR",
    help="Good X-rays that the reference of the quality flags is fitted to: the data that the "
    "model was trained on, a folder or a CSV with the columns image and split. Its splits train "
    "and val are taken; give 70 or more; masks are not needed.  [default: none, so that "
    "most flags cannot be raised]",
)
@click.option(
    "--calibration-images",
    type=click.Path(path_type=Path),
    metavar="CSV|DIR",
    help="X-rays to set the activation ranges of a unet from, at most 64 are used: a folder of "
    "images, or training data, of which the split train is taken. A SAM brings its ranges from "
    "training.  [default: those of --quality-data, or else of --verify-images]",
)
@click.option(
    "--keep-fp16",
    multiple=True,
    metavar="PATTERN",
    help="Take layers out of INT8, e.g. '*.neck.*' or '*.attn.matmul'; repeatable.",
)
@click.option(
    "--weight-bits",
    type=click.Choice(["7", "8"]),
    help="8 uses weights up to ±127, which saturate silently on CPUs without VNNI or dot product "
    "instructions (before about 2019): masks then differ from PC to PC. 7 is exact on every "
    "CPU.  [default: as trained, which is 7]",
)
@click.option(
    "--license-note",
    default="",
    metavar="TEXT",
    help="Terms of the weights, for the model card in the file.",
)
@click.version_option(VERSION, prog_name="cxrseg-export")
def command(checkpoint: Path, output: Path | None, weight_bits: str | None, **chosen: Any) -> None:
    """Turn CHECKPOINT, a model.ckpt of cxrseg-train, into one ONNX file for cxrseg-run.

    Adapters are merged, weights become int8, and the file is verified before it is written: each
    INT8 layer must run in integers in ONNX Runtime, and the masks must equal those of the same
    network in PyTorch in 99.9 % of the pixels, and those of the network as it was trained in
    99.5 % (99.5 % of both with --profile gpu; 99 % for a unet, which is rounded after training).
    When that fails the command says why and leaves no file.

    \b
    Examples:
      cxrseg-export runs/ward7/model.ckpt
      cxrseg-export runs/ward7/model.ckpt -o ward7.onnx --verify-images xrays/val/images
      cxrseg-export runs/ward7/model.ckpt -o ward7.onnx --quality-data xrays
      cxrseg-export runs/unet/model.ckpt -o unet.onnx --calibration-images xrays
    """
    require_export("cxrseg-export")
    only_int8 = weight_bits or chosen["keep_fp16"] or chosen["profile"] == "gpu"
    only_int8 = only_int8 or chosen["calibration_images"]
    if chosen["precision"] == "fp32" and only_int8:
        raise click.UsageError("--precision fp32 takes none of the options of INT8")
    echo("cxrseg-export: loading ...", err=True)
    from cxrseg.export.options import ExportOptions
    from cxrseg.export.pipeline import export
    from cxrseg.export.report import table

    output = output or checkpoint.with_suffix(".onnx")
    options = ExportOptions(weight_bits=None if weight_bits is None else int(weight_bits), **chosen)
    say = partial(_say, "cxrseg-export")
    report = export(checkpoint, output, options, say)
    for line in table(report).split("\n"):
        echo(line)
    echo(f"wrote {' and '.join(map(str, report.files))}")


@click.command(
    "cxrseg-recover",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Checkpoint to write, for cxrseg-train --checkpoint.",
)
@click.option(
    "--verify-images",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="X-rays to compare masks on, at most 32 are used.  [default: synthetic images]",
)
@click.version_option(VERSION, prog_name="cxrseg-recover")
def recover_command(model: Path | None, output: Path, verify_images: Path | None) -> None:
    """Turn MODEL, an INT8 file of cxrseg-export, back into a checkpoint to train from.

    By default MODEL is the file that ships with cxrseg. The weights are the file's, 7 bits each;
    the masks of the checkpoint must equal the file's in 99.5 % of the pixels of your X-rays, in
    95 % of drawn ones, or nothing is written.

    \b
    Examples:
      cxrseg-recover -o base.ckpt
      cxrseg-train xrays/ -o runs/ward7 --checkpoint base.ckpt
    """
    require_export("cxrseg-recover")
    echo("cxrseg-recover: loading ...", err=True)
    from cxrseg.export.graph.files import require_place
    from cxrseg.export.recover import recover
    from cxrseg.export.verify.agreement import DRAWN_IMAGES, SAME_WEIGHTS
    from cxrseg.export.verify.images import verification_images
    from cxrseg.runtime.models import default_model

    source = model or default_model()
    require_place(output, source, verify_images)
    radiographs, verified_on = verification_images(verify_images)
    found = recover(
        source,
        output,
        radiographs,
        say=partial(_say, "cxrseg-recover"),
        limits=DRAWN_IMAGES if verify_images is None else SAME_WEIGHTS,
    )
    echo(f"agreement   {found.mean:.6f} of pixels, worst image {found.worst:.6f}")
    echo(f"verified    on {verified_on}")
    echo(f"wrote {output}")


def recover_main(args: Sequence[str] | None = None) -> NoReturn:
    """Run ``cxrseg-recover`` with `args`, by default the program's, and exit."""
    run_command(recover_command, args)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command with `args`, by default the program's, and exit."""
    run_command(command, args)


if __name__ == "__main__":
    main()
