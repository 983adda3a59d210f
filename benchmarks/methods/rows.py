"""The ways to train that are compared: each a recipe, where it starts, and what is exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import Protocol
from cxrseg.trainer.fit.checkpoint import MODEL
from cxrseg.trainer.fit.run import Run
from cxrseg.trainer.recipe import Recipe
from cxrseg.trainer.recipe_file import read_recipe

Precision = Literal["fp32", "int8"]


@dataclass(frozen=True)
class Row:
    """A way to train.

    Attributes:
        name: What the command calls it.
        title: What the table calls it.
        settings: Top-level settings of its recipe that make it this method.
        precisions: Of the files that are exported and measured.
        after: The row whose stage 1 its stage 2 goes on from.
        marker: Of the plot.
    """

    name: str
    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    precisions: tuple[Precision, ...] = ("fp32",)
    after: str | None = None
    marker: str = "o"

    @property
    def is_unet(self) -> bool:
        """Whether the network is a U-Net; all others are SAMs."""
        return self.settings.get("model") == "unet"


def _unet(*channels: int) -> dict[str, Any]:
    return {"model": "unet", "method": "full", "unet": {"channels": channels}}


_ADALORA = {"method": "adalora"}

ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row("full", "full fine-tuning", {"method": "full"}, marker="s"),
        Row("decoder", "decoder only", {"method": "decoder"}, marker="D"),
        Row("lora", "LoRA, fixed rank", _ADALORA, marker="v"),
        Row("adalora", "AdaLoRA", _ADALORA, marker="^"),
        Row("adalora-ptq", "AdaLoRA + PTQ", _ADALORA, ("int8",), after="adalora", marker="P"),
        Row("adalora-qat", "AdaLoRA-QAT", _ADALORA, ("int8",), after="adalora"),
        Row("unet-size", "U-Net, same size", _unet(40, 80, 160, 320, 640), ("fp32", "int8")),
        Row("unet-latency", "U-Net, same latency", _unet(24, 48, 96, 192, 384), ("fp32", "int8")),
    )
}

COMMON = ("image_size", "labels", "data")
"""Settings of recipes that all rows share, or nothing could be compared."""


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
        data: Folders and CSV files.
        folder: Where the rows' folders are.
        recipe: YAML recipe of all rows, or None for the defaults.
        row_recipes: Name of a row -> its own YAML recipe.
        starts: Name of a row -> checkpoint that it starts from.
        base: Checkpoint that the other rows of a SAM start from.
    """

    data: tuple[Path, ...]
    folder: Path
    recipe: Path | None
    row_recipes: Mapping[str, Path]
    starts: Mapping[str, Path]
    base: Path | None

    def folder_of(self, name: str, seed: int) -> Path:
        """Return the folder of a row's run."""
        return self.folder / f"seed{seed}" / name

    def run_of(self, row: Row, seed: int) -> Run:
        """Return the run that trains a row, as ``cxrseg-train`` would.

        Raises:
            CxrsegError: The recipe is unusable, or a SAM has nothing to start from.
        """
        recipe = self.recipe_of(row).model_copy(update={"seed": seed, "devices": 1})
        folder = self.folder_of(row.name, seed)
        if row.after is not None:
            before = self.folder_of(row.after, seed) / MODEL
            return Run(self.data, folder, recipe, before, "2")
        start = self.starts.get(row.name) or (None if row.is_unet else self.base)
        if start is None and not row.is_unet:
            cause = "fine-tunes a trained SAM, and there is none"
            raise CxrsegError(row.name, cause, "give it with --checkpoint")
        return Run(self.data, folder, recipe, start, "1")

    def recipe_of(self, row: Row) -> Recipe:
        """Return the recipe of a row.

        LoRA is AdaLoRA's parametrization with the budget's final rank from the start, at the same
        scaling as near as a whole alpha comes to it, so that the allocation tells them apart. PTQ
        is a stage 2 without epochs.

        Raises:
            CxrsegError: It is no recipe, or not one for this method.
        """
        own = self.row_recipes.get(row.name)
        recipe = read_recipe(own or self.recipe, dict(row.settings))
        if own is not None and row.is_unet:
            # The row's channels, unless its own recipe tells others.
            without = read_recipe(own, {**row.settings, "unet": None})
            if "unet" in without.model_fields_set:
                recipe = without
        if row.name == "adalora-ptq":
            stage2 = recipe.stage2.model_copy(update={"epochs": 0})
            return recipe.model_copy(update={"stage2": stage2})
        if row.name != "lora":
            return recipe
        adapters = recipe.adapters
        rank = adapters.target_rank
        alpha = max(1, round(adapters.alpha * rank / adapters.init_rank))
        adapters = adapters.model_copy(update={"init_rank": rank, "alpha": alpha})
        return recipe.model_copy(update={"adapters": adapters})


@dataclass(frozen=True)
class Trial:
    """One row with one seed.

    Attributes:
        row: The row.
        seed: Its seed.
        run: What is trained.
        protocols: What its files segment.
        start: Checkpoint that its stage 1 started from; None for random weights.
    """

    row: Row
    seed: int
    run: Run
    protocols: tuple[Protocol, ...]
    start: Path | None

    @property
    def name(self) -> str:
        """Name of its parts' beginning."""
        return f"seed{self.seed}/{self.row.name}"

    def file(self, precision: Precision) -> Path:
        """Return the model file of a precision."""
        return self.run.output / f"{self.row.name}-{precision}.onnx"

    def record(self, kind: str, protocol: Protocol) -> Path:
        """Return the record of a measurement: ``int8`` or ``fp32``, or ``box``."""
        return self.run.output / f"{kind}-{protocol}.json"


def check_common(recipes: Mapping[str, Recipe]) -> Recipe:
    """Return one of the recipes, all of which must agree on what a model is for.

    Raises:
        CxrsegError: They do not.
    """
    first, *others = recipes.items()
    for name, recipe in others:
        for key in COMMON:
            here, there = (x.model_dump(mode="json")[key] for x in (recipe, first[1]))
            if here != there:
                cause = f"its recipe has another {key} than that of {first[0]} ({here}, {there})"
                raise CxrsegError(name, cause, "rows are compared on the same task")
    return first[1]
