"""``cxrseg-bench methods``: ways to train, on the same images and for as long, in one table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from cxrseg.benchmarks.options import require_bench
from cxrseg.runtime.console import echo, fail, require_extra
from cxrseg.runtime.errors import CxrsegError

_PATH = click.Path(path_type=Path)

TRAIN = ("lightning", "monai", "yaml", "tqdm")
"""Modules that the extra ``train`` brings."""

NAMES = (
    "full",
    "decoder",
    "lora",
    "adalora",
    "adalora-ptq",
    "adalora-qat",
    "unet-size",
    "unet-latency",
)
"""Rows of the table, in their order."""


def _pairs(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    found = {}
    for value in values:
        name, sign, text = value.partition("=")
        if not sign or not text or name not in NAMES:
            raise click.BadParameter(f"{value!r} is not ROW={_parameter.metavar}")
        found[name] = text
    return found


def _names(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[str, ...]:
    wanted = NAMES if value is None else tuple(value.replace(" ", "").split(","))
    for name in wanted:
        if name not in NAMES:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in wanted)


def _seeds(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    words = value.replace(" ", "").split(",")
    if not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
        raise click.BadParameter(f"{value!r} is not a list of different numbers like 0,1,2")
    return tuple(int(word) for word in words)


@click.command("methods", no_args_is_help=True)
@click.argument("data", nargs=-1, required=True, type=_PATH)
@click.option(
    "-o",
    "--output",
    "folder",
    required=True,
    metavar="FOLDER",
    type=_PATH,
    help="Where each row keeps its run, and where the table goes.",
)
@click.option("--rows", metavar="NAMES", callback=_names, help="Rows to do, comma separated.")
@click.option(
    "--seeds",
    default="0",
    show_default=True,
    metavar="N,...",
    callback=_seeds,
    help="Train every row once for each of these seeds.",
)
@click.option(
    "--checkpoint",
    "base",
    metavar="FILE",
    type=_PATH,
    help="What the rows of the SAM start from: a model.ckpt of cxrseg-train or an official "
    "sam_vit_*.pth.",
)
@click.option(
    "--recipe",
    metavar="FILE",
    type=_PATH,
    help="YAML recipe of cxrseg-train: size of the SAM and the images, labels, and the budget, "
    "epochs and images_per_epoch of stage1 and stage2.",
)
@click.option(
    "--row-recipe",
    "row_recipes",
    multiple=True,
    metavar="ROW=FILE",
    callback=_pairs,
    help="Another recipe for one row, e.g. with the learning rate that suits it; repeatable.",
)
@click.option(
    "--start",
    "starts",
    multiple=True,
    metavar="ROW=FILE",
    callback=_pairs,
    help="Start a U-Net's row from the model.ckpt of an earlier one; without, from scratch.",
)
@click.option(
    "--features",
    multiple=True,
    metavar="ROW=N,N,N,N,N",
    callback=_pairs,
    help="Channels of a U-Net's five levels.  [default: unet-size=40,80,160,320,640, "
    "unet-latency=24,48,96,192,384]",
)
@click.option(
    "--train-only",
    is_flag=True,
    help="Stop before the table; the same command without it makes the table.",
)
@click.pass_context
def command(
    context: click.Context,
    data: tuple[Path, ...],
    folder: Path,
    rows: tuple[str, ...],
    seeds: tuple[int, ...],
    base: Path | None,
    recipe: Path | None,
    row_recipes: dict[str, str],
    starts: dict[str, str],
    features: dict[str, str],
    train_only: bool,
) -> int:
    """Train in several ways on the same images, and compare accuracy, size and latency.

    DATA is as cxrseg-train takes it.
    """
    require_bench("methods")
    require_extra("cxrseg-bench methods", "train", TRAIN)
    echo("cxrseg-bench methods: loading ...", err=True)
    from cxrseg.benchmarks.rows import ROWS, Plan, check_rows, row_recipe, train_row

    wanted = [ROWS[name] for name in NAMES if name in _with_earlier(rows)]
    own = {name: Path(path) for name, path in row_recipes.items()}
    recipes = {row.name: row_recipe(row, own.get(row.name, recipe)) for row in wanted}
    plan = Plan(
        data,
        folder,
        recipes,
        base,
        {name: Path(path) for name, path in starts.items()},
        {name: _features(name, text) for name, text in features.items()},
    )
    check_rows(plan, wanted, seeds)
    failures: dict[tuple[str, int], str] = {}
    for seed in seeds:
        for row in wanted:
            echo(f"{row.name}, seed {seed}: training in {plan.folder_of(row, seed)}", err=True)
            try:
                if row.after is not None and (row.after, seed) in failures:
                    raise CxrsegError(row.name, f"needs {row.after}, which failed")
                train_row(plan, row, seed)
            except CxrsegError as error:
                failures[row.name, seed] = str(error)
                fail(error)
            # Whatever goes wrong in one training, the others are worth having.
            except Exception as error:
                failures[row.name, seed] = f"{type(error).__name__}: {error}"
                fail(CxrsegError(row.name, f"training failed ({type(error).__name__}: {error})"))
    return 1 if failures else 0


def _features(name: str, text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not name.startswith("unet") or len(words) != 5 or not all(w.isdecimal() for w in words):
        raise click.UsageError(f"--features {name}={text}: five numbers, for a row of a U-Net")
    return tuple(int(word) for word in words)


def _with_earlier(rows: Sequence[str]) -> set[str]:
    from cxrseg.benchmarks.rows import ROWS

    return {*rows, *(after for name in rows if (after := ROWS[name].after) is not None)}
