"""``cxrseg-bench ranks``: where AdaLoRA spent its budget."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch import nn

from cxrseg.benchmarks.harness.parameters import PATH, argument
from cxrseg.benchmarks.harness.plots import blank, plot, styled
from cxrseg.benchmarks.harness.result import Plot, Result, Table
from cxrseg.benchmarks.harness.runner import benchmark
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.trainer.adapt.adapters import adapted_layers
from cxrseg.trainer.adapt.adapters import ranks as ranks_of
from cxrseg.trainer.adapt.settings import AdapterConfig
from cxrseg.trainer.fit.checkpoint import MODEL, load

KINDS = ("q", "k", "v", "proj", "lin1", "lin2")
"""Projections of an encoder block that are adapted."""

HEATMAP = "heatmap"
"""Name of the plot."""

_LAYER = re.compile(r"blocks\.(\d+)\.(?:attn|mlp)\.(?:qkv\.)?(?:layer\.)?(q|k|v|proj|lin1|lin2)\b")


@dataclass(frozen=True)
class Options:
    """Whose ranks are shown."""

    run: Path = argument(metavar="CHECKPOINT|RUN", type=PATH)


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


@benchmark("ranks", Options, plots=(HEATMAP,))
def ranks(options: Options) -> Result:
    """Show where AdaLoRA spent its budget.

    CHECKPOINT is a model.ckpt that was trained with --method adalora; RUN is the folder of such a
    run. With -o, FILE-heatmap.png shows the rank of each layer.

    \b
    Examples
      cxrseg-bench ranks runs/ward7/model.ckpt
      cxrseg-bench ranks runs/ward7 -o ranks.json
    """
    checkpoint = options.run / MODEL if options.run.is_dir() else options.run
    loaded = load(checkpoint)
    config, name = loaded.description.adapters, loaded.description.model
    if config is None:
        cause = f"has no adapters (method {loaded.description.method})"
        raise CxrsegError(checkpoint, cause, "train with cxrseg-train --method adalora")
    adapters = adapters_of(loaded.model)
    text = findings(adapters, config)
    return Result(
        title=f"{name}, {checkpoint.name}",
        data={
            "checkpoint": {"file": checkpoint.name, "sha256": loaded.sha256},
            "model": name,
            "settings": config.model_dump(mode="json"),
            "findings": text,
            "adapters": [asdict(adapter) for adapter in adapters],
        },
        tables=[Table([], [], note=text), ranks_table(adapters)],
        plots=[plot_ranks(adapters, config.init_rank)],
    )


def place_of(layer: str) -> tuple[int, str] | None:
    """Return block and kind of an adapted layer by its name, or None for another name."""
    match = _LAYER.search(layer)
    return None if match is None else (int(match[1]), match[2])


def adapters_of(model: nn.Module) -> list[Adapter]:
    """Return the adapted projections of a network, in its order."""
    layers, adapters = adapted_layers(model), []
    for name, rank in ranks_of(model).items():
        place = place_of(name)
        assert place is not None, f"{name} is no layer that is adapted"
        size = layers[name].in_features + layers[name].out_features + 1
        adapters.append(Adapter(*place, rank, rank * size))
    return adapters


def findings(adapters: Sequence[Adapter], config: AdapterConfig) -> str:
    """Say in words how the budget was spent."""
    left = [adapter.rank for adapter in adapters]
    text = (
        f"{len(adapters)} adapters began with rank {config.init_rank}, to end with"
        f" {config.target_rank} on average. {sum(left)} ranks are left, from {min(left)} to"
        f" {max(left)} a layer; they have {sum(a.parameters for a in adapters):,} parameters."
    )
    if len(set(left)) == 1:
        text += " All are alike: the budget was not spent adaptively."
    return text


def _grid(adapters: Sequence[Adapter]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Return the ranks, int64 [blocks, kinds]."""
    grid = np.zeros((1 + max(a.block for a in adapters), len(KINDS)), np.int64)
    for adapter in adapters:
        grid[adapter.block, KINDS.index(adapter.kind)] = adapter.rank
    return grid


def ranks_table(adapters: Sequence[Adapter]) -> Table:
    """Return the ranks: blocks, and projections within them."""
    grid = _grid(adapters)
    rows = [[f"block {n}", *map(str, row), str(row.sum())] for n, row in enumerate(grid)]
    rows.append(["sum", *map(str, grid.sum(axis=0)), str(grid.sum())])
    rows.append(["mean", *(f"{mean:.1f}" for mean in grid.mean(axis=0)), ""])
    return Table(["rank of", *KINDS, "sum"], rows)


@styled
def plot_ranks(adapters: Sequence[Adapter], initial: int) -> Plot:
    """Draw ranks as a heat map, blocks from top to bottom.

    Args:
        adapters: The adapters.
        initial: Rank of each at the start.
    """
    grid = _grid(adapters)
    figure, axes = blank(5.2, 1.3 + 0.32 * len(grid))
    axis = axes[0, 0]
    image = axis.imshow(grid, cmap="viridis", vmin=0, vmax=initial, aspect="auto")
    for (block, kind), rank in np.ndenumerate(grid):
        color = "black" if rank > 0.6 * initial else "white"
        axis.text(kind, block, str(rank), ha="center", va="center", color=color)
    axis.set_xticks(range(len(KINDS)), KINDS)
    axis.set_yticks(range(len(grid)))
    axis.set_ylabel("encoder block")
    axis.grid(False)
    figure.colorbar(image, ax=axis, label=f"rank, {initial} at the start")
    return plot(
        HEATMAP,
        figure,
        "Ranks that AdaLoRA left to each projection of the encoder. All began at"
        f" {initial}; one budget was moved to where singular values mattered most.",
    )
