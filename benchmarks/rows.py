"""The rows of ``cxrseg-bench methods``: what each trains, from where, and into which folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cxrseg.benchmarks.unet import LEVELS, UNetRun, train_unet
from cxrseg.runtime.errors import CxrsegError
from cxrseg.trainer.data import Sample
from cxrseg.trainer.recipe import Recipe, read_recipe
from cxrseg.trainer.report import StageReport
from cxrseg.trainer.run import MODEL, SETTINGS, Run, check_folder, check_request
from cxrseg.trainer.training import (
    first_stage,
    finish_stage,
    open_first_stage,
    prepare_quantization,
    second_stage,
    train,
)

Precision = Literal["fp32", "int8"]


@dataclass(frozen=True)
class Row:
    """A way to train.

    Attributes:
        name: What the command calls it.
        title: What the table calls it.
        method: The recipe's method; None for a U-Net.
        precisions: Of the files that are exported and measured.
        features: Of a U-Net, as it takes them by default.
        after: The row whose stage 1 it goes on from.
    """

    name: str
    title: str
    method: Literal["full", "decoder", "adalora"] | None
    precisions: tuple[Precision, ...]
    features: tuple[int, ...] = ()
    after: str | None = None


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row("full", "full fine-tuning", "full", ("fp32",)),
        Row("decoder", "decoder only", "decoder", ("fp32",)),
        Row("lora", "LoRA, fixed rank", "adalora", ("fp32",)),
        Row("adalora", "AdaLoRA", "adalora", ("fp32",)),
        Row("adalora-ptq", "AdaLoRA + PTQ", "adalora", ("int8",), after="adalora"),
        Row("adalora-qat", "AdaLoRA-QAT", "adalora", ("int8",), after="adalora"),
        Row("unet-size", "U-Net, same size", None, ("fp32", "int8"), (40, 80, 160, 320, 640)),
        Row("unet-latency", "U-Net, same latency", None, ("fp32", "int8"), (24, 48, 96, 192, 384)),
    )
}


@dataclass(frozen=True)
class Plan:
    """What was asked for.

    Attributes:
        data: Folders and CSV files.
        folder: Where the rows' folders are.
        recipes: Name of the row -> its recipe.
        base: Checkpoint that the SAM's rows start from.
        starts: Name of a U-Net's row -> checkpoint that it starts from.
        features: Name of a U-Net's row -> its features.
    """

    data: tuple[Path, ...]
    folder: Path
    recipes: Mapping[str, Recipe]
    base: Path | None
    starts: Mapping[str, Path]
    features: Mapping[str, tuple[int, ...]]

    def folder_of(self, row: Row, seed: int) -> Path:
        """Return the folder of a row's run."""
        return self.folder / f"seed{seed}" / row.name

    def run_of(self, row: Row, seed: int) -> Run:
        """Return what a row trains."""
        changes = {"seed": seed, "devices": 1}
        recipe = self.recipes[row.name].model_copy(update=changes)
        folder = self.folder_of(row, seed)
        if row.method is None:
            features = self.features.get(row.name, row.features)
            return UNetRun(self.data, folder, recipe, self.starts.get(row.name), "1", features)
        if row.after is None:
            return Run(self.data, folder, recipe, self.base, "1")
        before = self.folder_of(ROWS[row.after], seed)
        return Run(self.data, folder, recipe, before / MODEL, "2")


def row_recipe(row: Row, path: Path | None) -> Recipe:
    """Read the recipe of a row, whose method is the row's.

    LoRA is AdaLoRA's parametrization with the budget's final rank from the start, at the same
    scaling, so that nothing but the allocation tells them apart.

    Raises:
        CxrsegError: It is no recipe, or not for this method.
    """
    recipe = read_recipe(path, {"method": row.method or "full"})
    if row.name != "lora":
        return recipe
    adapters = recipe.adapters
    rank = adapters.target_rank
    alpha = max(1, round(adapters.alpha * rank / adapters.init_rank))
    adapters = adapters.model_copy(update={"init_rank": rank, "alpha": alpha})
    return recipe.model_copy(update={"adapters": adapters})


def check_rows(plan: Plan, rows: Sequence[Row], seeds: Sequence[int]) -> None:
    """Check, before any training, that the rows can start or go on.

    Raises:
        CxrsegError: A checkpoint is missing or a folder holds a run of other settings.
    """
    for row in rows:
        for seed in seeds:
            run = plan.run_of(row, seed)
            if row.method is not None and row.after is None and run.checkpoint is None:
                cause = "fine-tunes a trained SAM, and there is none"
                raise CxrsegError(row.name, cause, "give it with --checkpoint")
            if row.after is None:
                check_request(run)
            check_folder(run, resume=(run.output / SETTINGS).is_file())


def train_row(plan: Plan, row: Row, seed: int) -> None:
    """Train a row to its end, from where it was; nothing is done for one that is finished.

    Raises:
        CxrsegError: It cannot be trained.
        KeyboardInterrupt: Stopped; the next call goes on.
    """
    run = plan.run_of(row, seed)
    if (run.output / MODEL).is_file():
        return
    resume = (run.output / SETTINGS).is_file()
    first = train_unet if row.method is None else first_stage
    second = calibrate_alone if row.name == "adalora-ptq" else second_stage
    train(run, resume, first, second)


def calibrate_alone(run: Run, samples: Sequence[Sample], start: Path) -> StageReport:
    """Take the place of stage 2: quantize and calibrate as it begins, and train nothing.

    Args:
        run: The run.
        samples: All samples.
        start: Checkpoint of a stage 1.

    Raises:
        CxrsegError: `start` is no checkpoint of a stage 1, or has other labels.
    """
    model, description = open_first_stage(run, samples, start)
    description = prepare_quantization(model, run.recipe, samples, description)
    total = sum(parameter.numel() for parameter in model.parameters())
    report = StageReport("calibration", {}, 0, total, description.ranks, 0, 0.0)
    finish_stage(run, 2, model, description, report)
    return report


def stage_reports(folder: Path) -> dict[str, Any]:
    """Return the reports of a run's finished stages, number -> plain data."""
    found = {}
    for number in ("1", "2"):
        path = folder / f"stage{number}.json"
        if path.is_file():
            found[number] = json.loads(path.read_text(encoding="utf-8"))
    return found
