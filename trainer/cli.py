"""The command ``cxrseg-train``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from cxrseg.runtime.core.errors import require_extra
from cxrseg.runtime.core.version import VERSION
from cxrseg.runtime.terminal.console import FAILED, OK, echo, fail, run_command

if TYPE_CHECKING:
    from cxrseg.trainer.recipe import Recipe, StageChoice

SHEET = "mask-check.png"
"""Name of the picture that ``--check`` draws."""

_EXTRA = (
    "torch",
    "segment_anything",
    "peft",
    "lightning",
    "monai",
    "pydantic",
    "tqdm",
    "yaml",
)


def _show_recipe(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    require_extra("cxrseg-train", "train", _EXTRA)
    import yaml

    from cxrseg.trainer.recipe import Recipe

    text = yaml.safe_dump(Recipe().model_dump(mode="json"), sort_keys=False)
    for line in text.splitlines():
        echo(line)
    context.exit()


@click.command(
    "cxrseg-train",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="Folder of the run: logs, checkpoints, and at the end model.ckpt.  [required, but for "
    "--check]",
)
@click.option(
    "--check",
    is_flag=True,
    help="Train nothing: look at all images and masks, name those that cannot be used or look odd, "
    f"and draw {SHEET}, outlines on X-rays to look at, in RUN or here.",
)
@click.option(
    "--model",
    type=click.Choice(["conv_t", "vit_t", "vit_b", "vit_l", "vit_h", "conv_n", "vit_n", "unet"]),
    help="The network: conv_t and vit_t are SAMs for the clinic PC, one of convolutions and one "
    "with a ViT, vit_b, vit_l, vit_h are Meta's SAMs, conv_n and vit_n are toys, unet is MONAI's "
    "U-Net.  [default: vit_t]",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where the weights start from: a model.ckpt, of a run or of cxrseg-recover (the shipped "
    "model), or an official sam_vit_*.pth.",
)
@click.option(
    "--soup",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Start from a model soup: the uniform average of the weights of --checkpoint and of this "
    "model.ckpt, both trained from one start; repeatable. Adapters are merged.",
)
@click.option(
    "--average",
    type=click.Path(path_type=Path),
    multiple=True,
    hidden=True,
)
@click.option(
    "--method",
    type=click.Choice(["adalora", "decoder", "full"]),
    help="What stage 1 trains: adapters and the decoder, the decoder alone, or everything. "
    "Without --checkpoint only full makes sense.  [default: adalora; full for a unet]",
)
@click.option(
    "--teacher",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Also learn from what this network finds, as much as the recipe's distillation says: a "
    "model.ckpt of cxrseg-train, of any --model; repeatable, the mean of their logits teaches.",
)
@click.option(
    "--stage",
    "stages",
    type=click.Choice(["1", "2", "all"]),
    help="1 = float, 2 = quantization-aware training of a stage 1 --checkpoint.  "
    "[default: all; 1 for a unet]",
)
@click.option(
    "--image-size",
    type=int,
    metavar="N",
    help="Side of the model input in pixels, a multiple of 16.  [default: 256]",
)
@click.option(
    "--labels",
    metavar="NAMES",
    help="What to learn, comma separated: fields (lungs, heart excluded), whole (lung behind the "
    "heart included), heart (from images with a mask of it).  [default: fields]",
)
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="YAML file with all other settings, or the name of a shipped one: vit_t-site for 20 to 50 "
    "images of a new hospital. Options given here win.",
)
@click.option(
    "--show-recipe",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_recipe,
    help="Print all settings with their defaults as YAML, and exit.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in -o, from where it was.")
@click.version_option(VERSION, prog_name="cxrseg-train")
def command(
    data: tuple[Path, ...],
    output: Path | None,
    check: bool,
    stages: StageChoice | None,
    resume: bool,
    **options: Any,
) -> int:
    """Train a lung segmentation model on chest X-rays with masks.

    DATA is one or more of: a folder {train,val,test}/{images,masks} with equal file names, or a
    CSV file with the columns image,mask,split (paths relative to it; an optional column protocol
    says fields or whole). Masks are binary, or label maps with 1 = right and 2 = left lung. They
    are looked at first: where most look odd, nothing is trained.

    \b
    Examples:
      cxrseg-train --check xrays/
      cxrseg-train xrays/ -o runs/base --method full --stage 1
      cxrseg-train xrays/ -o runs/ward7 --checkpoint runs/base/model.ckpt
      cxrseg-train xrays/ -o runs/ward7 --checkpoint runs/base/model.ckpt --resume
      cxrseg-train xrays/ -o runs/ward7 --checkpoint base.ckpt --recipe vit_t-site

    Ctrl-C saves; --resume goes on. The result is RUN/model.ckpt, for cxrseg-export.
    """
    if output is None and not check:
        raise click.UsageError("Missing option '-o' / '--output'.")
    require_extra("cxrseg-train", "train", _EXTRA)
    from cxrseg.trainer.old_names import warn_of_old_names
    from cxrseg.trainer.recipe_file import read_recipe

    overrides = {name: options[name] for name in ("model", "image_size", "method")}
    if stages == "2" and any(overrides.values()):
        raise click.UsageError("--stage 2 keeps model, image size and method of its --checkpoint")
    labels = options["labels"]
    overrides["labels"] = None if labels is None else tuple(labels.replace(" ", "").split(","))
    settings = read_recipe(options["recipe"], overrides)
    if output is None or check:
        return _check(data, settings, Path() if output is None else output)
    warn_of_old_names("cxrseg-train", ["--average"] if options["average"] else [])
    echo("cxrseg-train: loading ...", err=True)
    from cxrseg.trainer.fit.checkpoint import MODEL
    from cxrseg.trainer.fit.report import table
    from cxrseg.trainer.fit.run import Run
    from cxrseg.trainer.fit.stages import train

    stages = stages or ("1" if settings.model == "unet" else "all")
    soup = (*options["soup"], *options["average"])
    networks = {"soup": soup, "teachers": options["teacher"]}
    run = Run(data, output, settings, options["checkpoint"], stages, **networks)
    try:
        reports = train(run, resume)
    except KeyboardInterrupt:
        saved = any(output.glob("stage*/last.ckpt"))
        hint = "saved; the same command with --resume goes on" if saved else "nothing was trained"
        echo(f"interrupted: {output}: {hint}", err=True)
        raise click.exceptions.Exit(130) from None
    for line in table(reports):
        echo(line)
    echo(f"wrote {output / MODEL}")
    return OK


def _check(sources: Sequence[Path], settings: Recipe, folder: Path) -> int:
    """Look at all pairs, tell what was seen, draw the sheet, and return the exit code."""
    from cxrseg.trainer.check.pairs import remarks, too_many_odd, watch_pairs
    from cxrseg.trainer.check.sheet import check_sheet, write_sheet
    from cxrseg.trainer.data.samples import read_sources

    sheet = folder / SHEET
    check_sheet(sheet)
    findings = list(watch_pairs(read_sources(sources, settings.data)))
    errors = [finding.error for finding in findings if finding.error is not None]
    for error in errors:
        fail(error)
    for line in remarks(findings):
        echo(line)
    odd = sum(bool(finding.reasons) for finding in findings)
    echo(f"{len(findings)} pairs: {len(errors)} cannot be used, {odd} look odd")
    stop = too_many_odd(findings, settings.data.max_odd)
    if stop is not None:
        fail(stop)
    if write_sheet(findings, sheet):
        echo(f"wrote {sheet}")
    return FAILED if errors or stop is not None else OK


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command with `args`, by default the program's, and exit."""
    run_command(command, args)


if __name__ == "__main__":
    main()
