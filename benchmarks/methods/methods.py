"""``cxrseg-bench methods``: ways to train, on the same images and for as long, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrseg.benchmarks.harness.legacy_options import limit_option, require_bench, threads_option
from cxrseg.benchmarks.methods.methods_rows import LEVELS, ROWS
from cxrseg.runtime.core.errors import CxrsegError, require_extra
from cxrseg.runtime.core.labels import PROTOCOLS
from cxrseg.runtime.terminal.console import echo

if TYPE_CHECKING:
    from cxrseg.benchmarks.methods.methods_scores import Test
    from cxrseg.trainer.recipe import Recipe

TRAIN = ("lightning", "monai", "yaml", "tqdm")
"""Modules that the extra ``train`` brings."""

NAMES = tuple(ROWS)
UNETS = tuple(row.name for row in ROWS.values() if row.method is None)

RESULT = "methods.json"

_PATH = click.Path(path_type=Path)


def _check_rows(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    for name in _words(value):
        if name not in NAMES:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(NAMES)}")
    return value


def _check_seeds(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    words = _words(value)
    if not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
        raise click.BadParameter(f"{value!r} is not a list of different numbers like 0,1,2")
    return value


def _check_features(
    _context: click.Context, _parameter: click.Parameter, values: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, str], ...]:
    for _, text in values:
        words = _words(text)
        if len(words) != LEVELS or not all(w.isdecimal() and int(w) > 0 for w in words):
            raise click.BadParameter(f"{text!r} is not {LEVELS} numbers like 24,48,96,192,384")
    return values


def _words(text: str) -> list[str]:
    return text.replace(" ", "").split(",")


COMMON = ("model", "global_attention", "image_size", "labels", "data")
"""Settings of recipes that all rows share, or nothing could be compared."""


@click.command("methods", no_args_is_help=True)
@click.argument("data", nargs=-1, required=True, type=_PATH)
@click.option(
    "-o",
    "--output",
    "folder",
    required=True,
    metavar="FOLDER",
    type=_PATH,
    help="Where each row keeps its run, and where methods.json, .md and the figure go.",
)
@click.option(
    "--rows",
    default=",".join(NAMES),
    metavar="NAMES",
    callback=_check_rows,
    help="Rows to do, comma separated.  [default: all]",
)
@click.option(
    "--seeds",
    default="0",
    show_default=True,
    metavar="N,...",
    callback=_check_seeds,
    help="Train every row once for each of these seeds.",
)
@click.option(
    "--checkpoint",
    "base",
    metavar="FILE",
    type=_PATH,
    help="What the rows of the SAM start from: a model.ckpt of cxrseg-train, or an official "
    "sam_vit_*.pth.",
)
@click.option(
    "--base-images",
    metavar="N",
    type=click.IntRange(min=0),
    help="Images that --checkpoint was trained on, for the table; its file does not tell.",
)
@click.option(
    "--recipe",
    metavar="FILE",
    type=_PATH,
    help="YAML recipe of cxrseg-train, or the name of a shipped one: model, image_size, labels, "
    "precision, and the budget: epochs and images_per_epoch of stage1 and stage2.",
)
@click.option(
    "--row-recipe",
    "row_recipes",
    multiple=True,
    nargs=2,
    metavar="ROW FILE",
    type=(click.Choice(NAMES), _PATH),
    help="Another recipe for one row, with the learning rate that suits it; repeatable.",
)
@click.option(
    "--start",
    "starts",
    multiple=True,
    nargs=2,
    metavar="ROW FILE",
    type=(click.Choice(UNETS), _PATH),
    help="Start a U-Net from the model.ckpt of an earlier run of its row; repeatable.  "
    "[default: random weights]",
)
@click.option(
    "--features",
    multiple=True,
    nargs=2,
    metavar="ROW N,N,N,N,N",
    type=(click.Choice(UNETS), str),
    callback=_check_features,
    help="Channels of a U-Net's five levels, the finest first; repeatable.  [default: "
    + " and ".join(f"{name} {','.join(map(str, ROWS[name].features))}" for name in UNETS)
    + "]",
)
@click.option("--train-only", is_flag=True, help="Stop before anything is measured.")
@click.option(
    "--test",
    "measured",
    multiple=True,
    metavar="DATA",
    type=_PATH,
    help="Measure on the test images of this folder or CSV in place of DATA's; repeatable.",
)
@click.option(
    "--external",
    is_flag=True,
    help="Also measure on rows of the split external. It must decide nothing: look at it once.",
)
@click.option(
    "--no-box", is_flag=True, help="Leave out the SAM's figures with a box as its prompt."
)
@limit_option
@threads_option
@click.option(
    "--runs",
    metavar="N",
    type=click.IntRange(1, 100_000),
    default=50,
    show_default=True,
    help="Inferences of each file that count for its latency.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Seed of the bootstrap, the boxes and the latencies' order.",
)
@click.pass_context
def command(
    context: click.Context,
    data: tuple[Path, ...],
    folder: Path,
    rows: str,
    seeds: str,
    base: Path | None,
    base_images: int | None,
    recipe: Path | None,
    row_recipes: tuple[tuple[str, Path], ...],
    starts: tuple[tuple[str, Path], ...],
    features: tuple[tuple[str, str], ...],
    train_only: bool,
    measured: tuple[Path, ...],
    external: bool,
    no_box: bool,
    limit: int | None,
    threads: int | None,
    runs: int,
    seed: int,
) -> int:
    """Train in several ways on the same images, and compare accuracy, size and latency.

    DATA is as cxrseg-train takes it: folders and CSV files. Every row is trained on its training
    images for as long as --recipe says, exported, and measured on its test images. adalora-qat goes
    on from adalora, so it sees the images of stage2 besides.

    \b
    Rows
      full          SAM, every weight, FP32
      decoder       SAM, mask decoder and prompt encoder alone, FP32
      lora          SAM, low-rank adapters of one fixed rank, and decoder, FP32
      adalora       SAM, the same with one budget of ranks that is spent where it matters, FP32
      adalora-ptq   adalora, calibrated to INT8 without training
      adalora-qat   adalora, trained on for INT8: the recipe's stage2
      unet-size     MONAI's U-Net of about the size of vit_t, FP32 and INT8
      unet-latency  MONAI's U-Net of about the latency of vit_t in INT8, FP32 and INT8

    Rows of the SAM start from --checkpoint, U-Nets from random weights or --start; the table tells
    who started where and saw how many images. Methods want different learning rates: give a row its
    own with --row-recipe, and keep the budget. Choose a U-Net's size with --features until the
    latencies in the table are as wanted.

    Each row is a run in FOLDER/seed0/ROW. The same command goes on after Ctrl-C or a crash: what is
    trained, exported and scored is kept. A row that fails is reported, and the others go on.

    \b
    Examples
      cxrseg-bench methods xrays/ -o runs/methods --checkpoint base.ckpt --recipe vit_t-shipped
      cxrseg-bench methods pairs.csv -o runs/unet --rows unet-size --recipe long.yaml --train-only
      cxrseg-bench methods pairs.csv -o runs/methods --checkpoint base.ckpt --recipe short.yaml \\
          --start unet-size runs/unet/seed0/unet-size/model.ckpt --seeds 0,1 --external
    """
    require_bench("methods")
    require_extra("cxrseg-bench methods", "train", TRAIN)
    echo("cxrseg-bench methods: loading ...", err=True)
    # All of it before hours of training, in which an update could change a file.
    from cxrseg.benchmarks.harness.legacy_record import (
        check_output,
        command_line,
        environment,
        now,
        write_record,
        written,
    )
    from cxrseg.benchmarks.methods.methods_lines import (
        WARMUP,
        Failures,
        Scoring,
        measure_rows,
        reference_of,
        train_rows,
    )
    from cxrseg.benchmarks.methods.methods_report import (
        DEFINITIONS,
        FIGURE,
        draw_methods,
        label,
        markdown,
        parts,
    )
    from cxrseg.benchmarks.methods.methods_runs import Plan, check_rows, row_recipe
    from cxrseg.benchmarks.methods.methods_scores import tests_of
    from cxrseg.runtime.inference.session import default_threads

    asked = [ROWS[name] for name in NAMES if name in _words(rows)]
    earlier = [ROWS[row.after] for row in asked if row.after is not None]
    trained = [row for row in ROWS.values() if row in asked or row in earlier]
    numbers = [int(word) for word in _words(seeds)]
    own = dict(row_recipes)
    plan = Plan(
        data=data,
        folder=folder,
        recipes={row.name: row_recipe(row, own.get(row.name, recipe)) for row in trained},
        base=base,
        base_images=base_images,
        starts=dict(starts),
        features={name: tuple(map(int, _words(text))) for name, text in features},
    )
    common = _common(plan.recipes)
    tests: list[Test] = []
    if not train_only:
        protocols = [p for p in PROTOCOLS if p in common.labels]
        tests = tests_of(measured or data, common.data, protocols, external, limit)
    check_rows(plan, trained, numbers)
    _make(folder)
    check_output(folder / RESULT, [FIGURE])

    date = now()
    failures: Failures = {}
    try:
        train_rows(plan, trained, numbers, failures)
        if train_only:
            return 1 if failures else 0
        scoring = Scoring(tests, not no_box, threads or default_threads(), runs, seed)
        lines = measure_rows(plan, asked, numbers, scoring, failures)
    except KeyboardInterrupt:
        echo("interrupted: the same command goes on from here", err=True)
        raise
    failed = [{"row": r, "seed": s, "cause": cause} for (r, s), cause in failures.items()]
    trained_on, measured_on = (
        ", ".join(path.name for path in paths) for paths in (data, measured or data)
    )
    title = f"{len(asked)} ways to train on {trained_on}, measured on {measured_on}"
    names = [test.name for test in tests]
    body = parts(lines, failed, names)
    for text in "\n\n".join([title, *body]).split("\n"):
        echo(text)
    record: dict[str, Any] = {
        "command": command_line(context),
        "date": date,
        **environment("torch", "monai", "peft", "lightning"),
        "settings": {
            "rows": [row.name for row in asked],
            "seeds": numbers,
            "threads": scoring.threads,
            "runs": runs,
            "warmup": WARMUP,
            "limit": limit,
            "box": not no_box,
            "features": {
                row.name: list(plan.features.get(row.name, row.features))
                for row in asked
                if row.method is None
            },
        },
        "seed": seed,
        "data": [path.name for path in data],
        "tests": [
            {
                "name": test.name,
                "split": test.split,
                "protocol": test.protocol,
                "sha256": test.digest,
                "images": [case.name for case in test.cases],
            }
            for test in tests
        ],
        "recipes": {name: each.model_dump(mode="json") for name, each in plan.recipes.items()},
        "definitions": DEFINITIONS.format(reference=label(reference_of(lines)) if lines else "-"),
        "failures": failed,
        "rows": lines,
    }
    figures = {FIGURE: draw_methods(lines, names[0])} if lines else {}
    write_record(folder / RESULT, "methods", record, markdown(title, record, body), figures)
    echo(written(folder / RESULT, figures))
    return 1 if failures else 0


def _common(recipes: Mapping[str, Recipe]) -> Recipe:
    """Return one of the recipes, all of which must agree on what a model is for.

    Raises:
        CxrsegError: They do not.
    """
    first, *others = recipes.items()
    for name, recipe in others:
        for key in COMMON:
            here, there = (_plain(each, key) for each in (recipe, first[1]))
            if here != there:
                cause = f"its recipe has another {key} than that of {first[0]} ({here}, {there})"
                raise CxrsegError(name, cause, "rows are compared on the same task")
    return first[1]


def _plain(recipe: Recipe, key: str) -> Any:
    value = recipe.model_dump(mode="json")[key]
    # How many processes read the images changes nothing.
    return {k: v for k, v in value.items() if k != "workers"} if key == "data" else value


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cause = f"cannot be made ({error.strerror or error})"
        raise CxrsegError(folder, cause, "choose another -o") from None
