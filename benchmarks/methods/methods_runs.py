"""The runs behind the rows of ``cxrseg-bench methods``: from where, into what, at what cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from cxrseg.benchmarks.methods.methods_rows import ROWS, Precision, Row
from cxrseg.benchmarks.methods.unet import write_fp32, write_int8
from cxrseg.export.graph.compile import compile_model
from cxrseg.export.graph.files import atomic_outputs, digest, save
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.model_card import METADATA_KEY, ModelCard
from cxrseg.trainer.adapt.layer_table import layer_table
from cxrseg.trainer.data.loaders import evenly
from cxrseg.trainer.data.samples import Sample, of_split
from cxrseg.trainer.fit.checkpoint import MODEL, load
from cxrseg.trainer.fit.report import StageReport
from cxrseg.trainer.fit.run import Run, check_folder, check_request, is_started, read_data
from cxrseg.trainer.fit.stages import (
    describe,
    finish_stage,
    open_first_stage,
    prepare_quantization,
    second_stage,
    train,
)
from cxrseg.trainer.fit.start import start_from
from cxrseg.trainer.networks.lungsam import count_parameters
from cxrseg.trainer.recipe import Recipe, UNetRecipe, read_recipe


@dataclass(frozen=True)
class Plan:
    """What was asked for.

    Attributes:
        data: Folders and CSV files.
        folder: Where the rows' folders are.
        recipes: Name of the row -> its recipe.
        base: Checkpoint that the SAM's rows start from.
        base_images: Images that it had seen; None = unknown.
        starts: Name of a U-Net's row -> checkpoint that it starts from.
        features: Name of a U-Net's row -> its features.
    """

    data: tuple[Path, ...]
    folder: Path
    recipes: Mapping[str, Recipe]
    base: Path | None
    base_images: int | None
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
            unet = UNetRecipe(channels=self.features.get(row.name, row.features))
            recipe = recipe.model_copy(update={"model": "unet", "unet": unet})
            return Run(self.data, folder, recipe, self.starts.get(row.name), "1")
        if row.after is None:
            return Run(self.data, folder, recipe, self.base, "1")
        before = self.folder_of(ROWS[row.after], seed)
        return Run(self.data, folder, recipe, before / MODEL, "2")


def row_recipe(row: Row, path: Path | None) -> Recipe:
    """Read the recipe of a row, whose method is the row's.

    LoRA is AdaLoRA's parametrization with the budget's final rank from the start, at the same
    scaling as near as a whole alpha comes to it, so that the allocation tells them apart.

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
            if row.method is None and run.checkpoint is not None:
                start_from(run.checkpoint, describe(run.recipe))
            check_folder(run, resume=is_started(run))


def train_row(plan: Plan, row: Row, seed: int) -> None:
    """Train a row to its end, from where it was; nothing is done for one that is finished.

    Raises:
        CxrsegError: It cannot be trained.
        KeyboardInterrupt: Stopped; the next call goes on.
    """
    run = plan.run_of(row, seed)
    if (run.output / MODEL).is_file():
        return
    second = calibrate_alone if row.name == "adalora-ptq" else second_stage
    train(run, is_started(run), second)


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
    total = count_parameters(model)
    report = StageReport("calibration", {}, 0, total, description.ranks, 0, 0.0)
    finish_stage(run, 2, model, description, report)
    return report


def export_row(plan: Plan, row: Row, seed: int) -> dict[Precision, Path]:
    """Write the model files of a trained row into its folder, those that are not there yet.

    Returns:
        Precision -> file.

    Raises:
        CxrsegError: The checkpoint cannot be read, or a file cannot be written.
    """
    folder = plan.folder_of(row, seed)
    checkpoint = folder / MODEL
    files = {name: folder / f"{row.name}-{name}.onnx" for name in row.precisions}
    sha256 = digest([checkpoint])
    missing = [name for name, path in files.items() if _comes_from(path) != sha256]
    if missing and row.method is None:
        loaded = load(checkpoint)
        write_fp32(loaded, files["fp32"])
        run = plan.run_of(row, seed)
        samples = of_split(read_data(run), "train")
        spec = loaded.description.preprocessing
        items = evenly(samples, spec, run.recipe.calibration_images)
        write_int8(files["fp32"], [item["image"][0].numpy() for item in items], files["int8"])
    elif missing:
        loaded = load(checkpoint)
        for name in missing:
            with atomic_outputs(files[name]) as beside:
                save(compile_model(loaded, name, layer_table(loaded.model)).graph, beside)
    return files


def _comes_from(path: Path) -> str | None:
    """Return the hash of the checkpoint that a model file was exported from; None without one."""
    if not path.is_file():
        return None
    properties = {each.key: each.value for each in onnx.load(path).metadata_props}
    return ModelCard.from_json(properties[METADATA_KEY]).checkpoint_sha256


def budget_of(plan: Plan, row: Row, seed: int) -> dict[str, Any]:
    """Return what a trained row started from and what it took, as plain data.

    Returns:
        ``start``: name of a checkpoint, or None for random weights; ``start_sha256``: its hash;
        ``images_before``: images that it had seen, None where unknown; ``images`` of each stage;
        ``seconds`` of all; ``trainable``: parameters trained in stage 1.
    """
    run = plan.run_of(row, seed)
    folders = [run.output] if row.after is None else [plan.folder_of(ROWS[row.after], seed)]
    reports = [_report(folder, 1) for folder in folders]
    if row.after is not None:
        reports.append(_report(run.output, 2))
    start = plan.base if row.method is not None else run.checkpoint
    before = plan.base_images
    if row.method is None:
        # Of all that the checkpoint saw, what it did not see in this run.
        seen = load(run.output / MODEL).description.images
        before = None if seen is None else seen - reports[0]["images"]
    return {
        "start": None if start is None else start.name,
        "start_sha256": None if start is None else digest([start]),
        "images_before": before,
        "images": [report["images"] for report in reports],
        "seconds": round(sum(report["seconds"] for report in reports), 1),
        "trainable": reports[0]["trainable"],
    }


def _report(folder: Path, stage: int) -> dict[str, Any]:
    path = folder / f"stage{stage}.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        cause = f"the report of a finished stage cannot be read ({error})"
        raise CxrsegError(path, cause, "remove the row's folder to train it anew") from None
    return found
