"""Options of ``cxrseg-bench methods``, and the trials that they ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from cxrseg.benchmarks.harness.options import SeedOptions, ThreadOptions
from cxrseg.benchmarks.harness.parameters import PATH, argument, option
from cxrseg.benchmarks.methods.rows import ROWS, Plan, Trial, check_common
from cxrseg.runtime.core.labels import PROTOCOLS
from cxrseg.trainer.fit.run import check_folder, check_request, is_started

NAMES = tuple(ROWS)


def _rows(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    for name in words(value):
        if name not in NAMES:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(NAMES)}")
    return value


def _seeds(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    seeds = words(value)
    if not all(seed.isdecimal() for seed in seeds) or len(set(seeds)) < len(seeds):
        raise click.BadParameter(f"{value!r} is not a list of different numbers like 0,1,2")
    return value


def words(text: str) -> list[str]:
    """Return the words of a list with commas."""
    return text.replace(" ", "").split(",")


@dataclass(frozen=True)
class Options(ThreadOptions, SeedOptions):
    """What is trained and measured."""

    data: tuple[Path, ...] = argument(metavar="DATA...", nargs=-1, type=PATH)
    folder: Path = option(
        "-o",
        "--output",
        metavar="FOLDER",
        type=PATH,
        help="Where each row keeps its run, and where methods.json and its plot go.",
    )
    test: Path = option(
        "--test",
        metavar="CSV",
        type=PATH,
        help="Images to measure on: its rows of the split test.",
    )
    rows: str = option(
        "--rows",
        default=",".join(NAMES),
        metavar="NAMES",
        callback=_rows,
        show_default=False,
        help="Rows to do, joined by commas.  [default: all]",
    )
    seeds: str = option(
        "--seeds",
        default="0",
        metavar="N,...",
        callback=_seeds,
        help="Train every row once for each of these seeds.",
    )
    checkpoint: Path | None = option(
        "--checkpoint",
        default=None,
        metavar="FILE",
        type=PATH,
        help="What the rows of the SAM start from: a model.ckpt of cxrseg-train, or an official"
        " sam_vit_*.pth.",
    )
    recipe: Path | None = option(
        "--recipe",
        default=None,
        metavar="FILE",
        type=PATH,
        help="YAML recipe of cxrseg-train, or the name of a shipped one, for all rows.",
    )
    row_recipes: tuple[tuple[str, Path], ...] = option(
        "--row-recipe",
        default=(),
        multiple=True,
        nargs=2,
        metavar="ROW FILE",
        type=(click.Choice(NAMES), PATH),
        help="Another recipe for one row, with the learning rate that suits it, or with the"
        " channels of its U-Net; repeatable.",
    )
    starts: tuple[tuple[str, Path], ...] = option(
        "--start",
        default=(),
        multiple=True,
        nargs=2,
        metavar="ROW FILE",
        type=(click.Choice(NAMES), PATH),
        help="Another checkpoint for one row to start from; repeatable.",
    )
    train_only: bool = option(
        "--train-only", default=False, is_flag=True, help="Stop before anything is measured."
    )
    no_box: bool = option(
        "--no-box",
        default=False,
        is_flag=True,
        help="Leave out the SAM's figures with a box as its prompt.",
    )
    limit: int | None = option(
        "--limit",
        default=None,
        metavar="N",
        type=click.IntRange(min=1),
        help="Measure on N images of each protocol only, spread evenly over all.",
    )
    runs: int = option(
        "--runs",
        default=50,
        metavar="N",
        type=click.IntRange(1, 100_000),
        help="Inferences of each file that count for its latency.",
    )

    def plan(self) -> Plan:
        """Return what is trained."""
        return Plan(
            data=self.data,
            folder=self.folder,
            recipe=self.recipe,
            row_recipes=dict(self.row_recipes),
            starts=dict(self.starts),
            base=self.checkpoint,
        )


def trials_of(options: Options) -> list[Trial]:
    """Return every row with every seed, and before them those that they go on from.

    Raises:
        CxrsegError: A recipe is unusable, recipes differ in their task, a checkpoint is missing,
            or a folder holds a run of other settings.
    """
    plan = options.plan()
    asked = [ROWS[name] for name in NAMES if name in words(options.rows)]
    before = {row.after for row in asked}
    trained = [row for row in ROWS.values() if row in asked or row.name in before]
    common = check_common({row.name: plan.recipe_of(row) for row in trained})
    trials = []
    protocols = tuple(name for name in PROTOCOLS if name in common.labels)
    for seed in map(int, words(options.seeds)):
        for row in trained:
            run = plan.run_of(row, seed)
            if row.after is None:
                check_request(run)
            check_folder(run, resume=is_started(run))
            first = run if row.after is None else plan.run_of(ROWS[row.after], seed)
            trials.append(Trial(row, seed, run, protocols, first.checkpoint))
    return trials
