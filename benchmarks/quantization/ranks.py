"""``cxrseg-bench ranks``: where AdaLoRA spent its budget, and how it came to that."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from cxrseg.benchmarks.harness.legacy_figures import (
    BLUE,
    GRAY,
    ORANGE,
    Drawing,
    blank,
    drawing,
    styled,
)
from cxrseg.benchmarks.harness.legacy_options import output_option, require_bench
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.terminal.console import echo

KINDS = ("q", "k", "v", "proj", "lin1", "lin2")
"""Projections of an encoder block that are adapted."""

RANKS, BUDGET = "heatmap", "budget"
"""Names of the figures."""

LOG = "metrics.csv"
"""The log that training leaves in the folder of a stage."""

_LAYER = re.compile(r"blocks\.(\d+)\.(?:attn|mlp)\.(?:qkv\.)?(?:layer\.)?(q|k|v|proj|lin1|lin2)\b")
_PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class Adapter:
    """An adapted projection.

    Attributes:
        block: Number of the encoder block.
        kind: One of `KINDS`.
        rank: Singular values that were kept.
        parameters: Weights of its three factors at that rank: rank * (inputs + outputs + 1).
    """

    block: int
    kind: str
    rank: int
    parameters: int


@dataclass(frozen=True)
class Allocation:
    """Ranks at one time of training.

    Attributes:
        step: Optimizer steps taken.
        total: Sum of all ranks.
        ranks: Layer -> rank.
    """

    step: int
    total: int
    ranks: Mapping[str, int]


def place_of(layer: str) -> tuple[int, str] | None:
    """Return block and kind of an adapted layer by its name, or None for another name."""
    found = _LAYER.search(layer)
    return None if found is None else (int(found[1]), found[2])


def read_history(run: Path) -> list[Allocation]:
    """Read the allocations that training logged.

    A stage that was resumed has a log for each part; what a part logged beyond the step where the
    next one began was lost, and is left out.

    Args:
        run: Folder of a run.

    Returns:
        The allocations by step; empty where none is logged.

    Raises:
        CxrsegError: A log cannot be read.
    """
    parts = sorted(
        (int(path.parent.name.rpartition("_")[2]) if path.parent.name != "stage1" else 0, path)
        for path in (run / "stage1" / LOG, *(run / "stage1").glob(f"from_step_*/{LOG}"))
        if path.is_file()
    )
    history: list[Allocation] = []
    for start, path in parts:
        history = [each for each in history if each.step <= start] + _read_log(path)
    return history


def _read_log(path: Path) -> list[Allocation]:
    from cxrseg.trainer.adapt.adapters import RANK, TOTAL_RANK

    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                Allocation(
                    int(row["step"]),
                    int(float(row[TOTAL_RANK])),
                    {
                        name.removeprefix(RANK): int(float(value))
                        for name, value in row.items()
                        if name.startswith(RANK) and name != TOTAL_RANK and value
                    },
                )
                for row in csv.DictReader(file)
                if row.get(TOTAL_RANK)
            ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        cause = f"is no log of cxrseg-train ({error})"
        raise CxrsegError(path, cause, "give the checkpoint alone") from error


def adapters_of(model: Any) -> list[Adapter]:
    """Return the adapted projections of a network, in its order."""
    from cxrseg.trainer.adapt.adapters import adapted_layers, ranks

    found = []
    for name, rank in ranks(model).items():
        place = place_of(name)
        assert place is not None, f"{name} is no layer that is adapted"
        layer = adapted_layers(model)[name]
        size = layer.lora_A["default"].shape[1] + layer.lora_B["default"].shape[0] + 1
        found.append(Adapter(*place, rank, rank * size))
    return found


def table(adapters: Sequence[Adapter]) -> str:
    """Return the ranks as an aligned Markdown table: blocks, and projections within them."""
    from cxrseg.benchmarks.harness.legacy_record import table

    grid = {(each.block, each.kind): each.rank for each in adapters}
    blocks = sorted({each.block for each in adapters})
    rows = [
        [
            f"block {block}",
            *(str(grid[block, kind]) for kind in KINDS),
            str(sum(grid[block, kind] for kind in KINDS)),
        ]
        for block in blocks
    ]
    sums = [sum(grid[block, kind] for block in blocks) for kind in KINDS]
    rows.append(["sum", *map(str, sums), str(sum(sums))])
    rows.append(["mean", *(f"{each / len(blocks):.1f}" for each in sums), ""])
    return table(["rank of", *KINDS, "sum"], rows)


@styled
def draw_ranks(adapters: Sequence[Adapter], initial: int) -> Drawing:
    """Draw ranks as a heat map, blocks from top to bottom.

    Args:
        adapters: The adapters.
        initial: Rank of each at the start.
    """
    import numpy as np

    blocks = 1 + max(each.block for each in adapters)
    grid = np.zeros((blocks, len(KINDS)))
    for each in adapters:
        grid[each.block, KINDS.index(each.kind)] = each.rank
    figure, axes = blank(5.2, 1.3 + 0.32 * blocks)
    axis = axes[0, 0]
    image = axis.imshow(grid, cmap="viridis", vmin=0, vmax=initial, aspect="auto")
    for each in adapters:
        color = "black" if each.rank > 0.6 * initial else "white"
        place = (KINDS.index(each.kind), each.block)
        axis.text(*place, str(each.rank), ha="center", va="center", color=color)
    axis.set_xticks(range(len(KINDS)), KINDS)
    axis.set_yticks(range(blocks))
    axis.set_ylabel("encoder block")
    axis.grid(False)
    figure.colorbar(image, ax=axis, label=f"rank, {initial} at the start")
    return drawing(
        figure,
        "Ranks that AdaLoRA left to each projection of the encoder. All began at"
        f" {initial}; one budget was moved to where singular values mattered most.",
    )


@styled
def draw_budget(history: Sequence[Allocation], initial: int, target: int) -> Drawing:
    """Draw how ranks developed: their sum, and the mean of each kind of projection.

    Args:
        history: Allocations by step, at least one.
        initial: Sum of the ranks at the start.
        target: The sum that the budget comes down to.
    """
    import numpy as np

    figure, axes = blank(9, 3.2, 1, 2)
    steps = [0, *(each.step for each in history)]
    axis = axes[0, 0]
    axis.step(steps, [initial, *(e.total for e in history)], where="post", color=BLUE, marker=".")
    axis.axhline(target, color=GRAY, ls="--", lw=0.8, label=f"target, {target}")
    axis.set(title="sum of ranks", xlabel="optimizer steps", ylim=(0, 1.05 * initial))
    axis.legend(loc="lower left")
    axis = axes[0, 1]
    for kind in KINDS:
        means = []
        for each in history:
            places = ((place_of(name), rank) for name, rank in each.ranks.items())
            own = [rank for place, rank in places if place is not None and place[1] == kind]
            means.append(float(np.mean(own)) if own else np.nan)
        axis.step(steps[1:], means, where="post", label=kind)
    axis.set(title="mean rank of each projection", xlabel="optimizer steps")
    axis.set_ylim(bottom=0)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    last = history[-1]
    axes[0, 0].plot(last.step, last.total, "o", color=ORANGE)
    return drawing(
        figure,
        "The budget over the training of stage 1: it falls along a cubic schedule from"
        f" {initial} to {last.total}, after which ranks are held.",
    )


@click.command("ranks")
@click.argument("checkpoint", metavar="CHECKPOINT|RUN", type=_PATH)
@output_option
@click.pass_context
def command(context: click.Context, checkpoint: Path, output: Path | None) -> None:
    """Show the ranks that AdaLoRA gave to each layer.

    CHECKPOINT is a model.ckpt that was trained with --method adalora; RUN is the folder of such a
    run, whose logs also tell how the budget developed. With -o ranks are drawn as a heat map,
    FILE-heatmap, and the budget as FILE-budget, as .png and .svg.

    \b
    Examples
      cxrseg-bench ranks runs/ward7/model.ckpt
      cxrseg-bench ranks runs/ward7 -o ranks.json
    """
    require_bench("ranks")
    from cxrseg.benchmarks.harness.legacy_record import (
        check_output,
        circumstances,
        command_line,
        environment,
        now,
        write_record,
        written,
    )
    from cxrseg.trainer.fit.checkpoint import MODEL, load

    history = read_history(checkpoint) if checkpoint.is_dir() else []
    if checkpoint.is_dir():
        checkpoint = checkpoint / MODEL
    if output is not None:
        check_output(output, [RANKS, BUDGET] if history else [RANKS])
    loaded = load(checkpoint)
    config = loaded.description.adapters
    if config is None:
        cause = f"has no adapters (method {loaded.description.method})"
        raise CxrsegError(checkpoint, cause, "train with cxrseg-train --method adalora")
    date = now()
    adapters = adapters_of(loaded.model)
    each = [adapter.rank for adapter in adapters]
    text = (
        f"{len(adapters)} adapters of rank {config.init_rank} at the start, {config.target_rank} on"
        f" average wanted: {sum(each)} ranks are left, from {min(each)} to {max(each)} a layer,"
        f" {sum(a.parameters for a in adapters):,} parameters."
    )
    if len(set(each)) == 1:
        text += " All are alike: the budget was not spent adaptively."
    title = f"{loaded.description.architecture.name}, {checkpoint.name}"
    page = table(adapters)
    for line in f"{title}\n\n{text}\n\n{page}".split("\n"):
        echo(line)
    if output is None:
        return
    figures = {RANKS: draw_ranks(adapters, config.init_rank)}
    if history:
        totals = (len(adapters) * rank for rank in (config.init_rank, config.target_rank))
        figures[BUDGET] = draw_budget(history, *totals)
    record: dict[str, Any] = {
        "command": command_line(context),
        "date": date,
        **environment("peft"),
        "checkpoint": {"file": checkpoint.name, "sha256": loaded.sha256},
        "model": loaded.description.architecture.name,
        "settings": config.model_dump(mode="json"),
        "findings": text,
        "adapters": [asdict(adapter) for adapter in adapters],
        "history": [asdict(allocation) for allocation in history],
    }
    facts = [
        f"# Ranks: {title}",
        f"`{record['command']}`",
        f"{circumstances(record)}; checkpoint SHA-256 `{loaded.sha256}`.",
        text,
        page,
    ]
    write_record(output, "ranks", record, "\n\n".join(facts), figures)
    echo(written(output, figures))
