"""A run: stage 1, stage 2, the checkpoint and the report, resumable at any point."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from cxrseg.runtime.core.atomic import atomic_write
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.trainer.adapt.adapters import add_adapters, freeze_singular_values
from cxrseg.trainer.adapt.layer_table import layer_table
from cxrseg.trainer.adapt.quantization import calibrate, make_float, quantize, set_mode
from cxrseg.trainer.adapt.sensitivity import measure, sensitive
from cxrseg.trainer.data.dataset import LungDataset
from cxrseg.trainer.data.loaders import evenly, plain_loader, train_loader, val_samples
from cxrseg.trainer.data.samples import Sample, of_split, summarize
from cxrseg.trainer.fit.callbacks import EMA, AllocateRanks, KeepLast
from cxrseg.trainer.fit.checkpoint import (
    MODEL,
    PREFIX,
    Describes,
    Description,
    average,
    build,
    load,
    save,
    start_from,
)
from cxrseg.trainer.fit.distillation import Teacher, load_teacher
from cxrseg.trainer.fit.losses import union_scores
from cxrseg.trainer.fit.module import DEVICES, Task
from cxrseg.trainer.fit.report import StageReport
from cxrseg.trainer.fit.run import (
    Run,
    check_folder,
    check_pairs,
    check_request,
    read_data,
    record_settings,
)
from cxrseg.trainer.networks.lungsam import LungSAM, count_parameters, freeze
from cxrseg.trainer.networks.sam import ARCHITECTURES, read_torch_file
from cxrseg.trainer.recipe import Recipe, StageRecipe

LAST = "last.ckpt"
BEST = "best.ckpt"


def prepare_method(model: LungSAM, recipe: Recipe) -> None:
    """Choose what stage 1 trains; adapters are added later, when the steps are known."""
    freeze(model.unused_modules())
    if recipe.method == "decoder":
        freeze([model.image_encoder])


def _loggers(output: Path, name: str, step: int) -> list[Logger]:
    # Lightning's loggers begin a file anew, so a resumed stage gets its own.
    part = f"from_step_{step}" if step else ""
    loggers: list[Logger] = [CSVLogger(output, name=name, version=part)]
    if find_spec("tensorboard") is not None:
        loggers.append(TensorBoardLogger(output, name=name, version=part))
    return loggers


def run_stage(
    run: Run, number: int, task: Task, samples: Sequence[Sample], stage: StageRecipe
) -> StageReport:
    """Train one stage to its end, from where it was, and load its best weights.

    Raises:
        KeyboardInterrupt: Stopped by Ctrl-C; the state is saved.
        CxrsegError: The saved state cannot be read.
    """
    recipe = run.recipe
    name = f"stage{number}"
    folder = run.output / name
    folder.mkdir(exist_ok=True)
    last = folder / LAST
    saved = read_torch_file(last) if last.is_file() else {}
    step = int(saved.get("global_step", 0))
    seed_everything(recipe.seed + step, workers=True, verbose=False)

    spec = task.description.preprocessing
    chosen = val_samples(recipe, samples)
    callbacks: list[Callback] = []
    if task.allocation is not None:
        callbacks.append(AllocateRanks(task.allocation))
    if stage.ema:
        callbacks.append(EMA(stage.ema))
    callbacks += [
        ModelCheckpoint(
            folder,
            "best",
            monitor="score",
            mode="max",
            # The average is in checkpoints that are saved whole alone.
            save_weights_only=not stage.ema,
            enable_version_counter=False,
        ),
        TQDMProgressBar(refresh_rate=5),
    ]
    if stage.patience:
        callbacks.append(EarlyStopping("score", mode="max", patience=stage.patience))
    callbacks.append(KeepLast(last, recipe.checkpoint_minutes))
    trainer = _trainer(
        recipe,
        precision=recipe.precision if number == 1 else "32-true",
        max_epochs=stage.epochs,
        gradient_clip_val=1.0,
        callbacks=callbacks,
        logger=_loggers(run.output, name, step),
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    devices = saved.get(DEVICES, trainer.world_size)
    if devices != trainer.world_size:
        # The schedules of learning rate and ranks count steps.
        cause = f"was trained on {devices} devices, and here it would be {trainer.world_size}"
        raise CxrsegError(last, cause, f"set devices: {devices} in the recipe")
    try:
        trainer.fit(
            task,
            train_loader(recipe, stage, of_split(samples, "train"), spec, trainer.world_size),
            plain_loader(recipe, LungDataset(chosen, spec), stage, None),
            ckpt_path=last if last.is_file() else None,
            weights_only=True,
        )
        best = folder / BEST
        state = read_torch_file(best if best.is_file() else last)["state_dict"]
        task.model.load_state_dict({k.removeprefix(PREFIX): v for k, v in state.items()})
        metrics = _validate(trainer, task, recipe, chosen, stage)
    except SystemExit:
        # Lightning turns Ctrl-C into an exit of its own after the callbacks have saved.
        raise KeyboardInterrupt from None
    except torch.OutOfMemoryError as error:
        remedy = "take a smaller batch_size, or gradient_checkpointing: true"
        raise CxrsegError("training", "the device has not enough memory", remedy) from error
    except RuntimeError as error:
        _, found, message = str(error).rpartition("CxrsegError: ")
        if not found:
            raise
        # A worker process hands over its exception as text.
        name_of_file, _, cause = message.strip().partition(": ")
        raise CxrsegError(name_of_file, cause) from None
    drawn = stage.images_per_epoch or len(of_split(samples, "train"))
    return StageReport(
        name=f"stage {number}",
        metrics=metrics,
        trainable=count_parameters(task.model, trainable=True),
        total=count_parameters(task.model),
        ranks=task.final_ranks(),
        images=trainer.global_step * min(stage.batch_size, drawn) * trainer.world_size,
        seconds=task.seconds,
    )


def _validate(
    trainer: Trainer, task: Task, recipe: Recipe, chosen: Sequence[Sample], stage: StageRecipe
) -> dict[str, float]:
    loader = plain_loader(recipe, LungDataset(chosen, task.description.preprocessing), stage, None)
    results = trainer.validate(task, loader, verbose=False)[0]
    return {name: float(value) for name, value in results.items() if name.startswith("val_")}


def finish_stage(
    run: Run, number: int, model: nn.Module, description: Describes, report: StageReport
) -> None:
    """Write report (``stage1.json``) and checkpoint (``stage1.ckpt``) of a finished stage."""
    if _first_process():
        with atomic_write(run.output / f"stage{number}.json") as beside:
            beside.write_text(json.dumps(asdict(report), indent=2), encoding="utf-8")
        save(model, description, run.output / f"stage{number}.ckpt")
    _wait_for_all()


def _first_process() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0


def _wait_for_all() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def _trainer(recipe: Recipe, **settings: Any) -> Trainer:
    """Return Lightning's trainer on the recipe's devices.

    Raises:
        CxrsegError: They are not there.
    """
    try:
        return Trainer(accelerator=recipe.accelerator, devices=recipe.devices, **settings)
    except (MisconfigurationException, ValueError) as error:
        asked = f"accelerator {recipe.accelerator}, devices {recipe.devices}"
        cause = f"cannot be used ({' '.join(str(error).split())[:200]})"
        raise CxrsegError(asked, cause, "name what is there in the recipe, or auto") from error


def _steps(recipe: Recipe, stage: StageRecipe, samples: Sequence[Sample]) -> int:
    count = stage.images_per_epoch or len(of_split(samples, "train"))
    devices = _trainer(recipe, logger=False, enable_checkpointing=False).world_size
    # Each device draws as many, rounded up, and drops what makes no whole batch.
    return stage.epochs * max(1, -(-count // devices) // stage.batch_size)


def teachers_of(run: Run, stage: StageRecipe) -> list[Teacher]:
    """Load the networks that a stage learns from.

    Raises:
        CxrsegError: One cannot be read, or has none of the run's labels.
    """
    teachers = []
    for path in run.teachers if stage.teaching else ():
        teacher = load_teacher(path)
        if not set(teacher.labels) & set(run.recipe.channels):
            cause = f"has the labels {', '.join(teacher.labels)}, and none of the run's"
            raise CxrsegError(path, cause, "give the same --labels, or another --teacher")
        teachers.append(teacher)
    return teachers


def first_stage(run: Run, samples: Sequence[Sample]) -> StageReport:
    """Train in float: everything, the decoder, or adapters and decoder.

    Raises:
        CxrsegError: The starting checkpoint does not fit, or is missing.
    """
    recipe = run.recipe
    architecture = ARCHITECTURES[recipe.model]
    if recipe.global_attention:
        architecture = architecture.with_global_attention()
    adapters = recipe.adapters if recipe.method == "adalora" else None
    description = Description(
        architecture=architecture,
        labels=recipe.channels,
        preprocessing=Preprocessing(recipe.image_size),
        stage=1,
        method=recipe.method,
        adapters=adapters,
        data=summarize(samples),
        version=version("cxrseg"),
    )
    seed_everything(recipe.seed, verbose=False)
    if run.checkpoint is None:
        model = build(replace(description, adapters=None))
    else:
        model = start_from(run.checkpoint, description)
        average(model, [start_from(path, description) for path in run.average])
    prepare_method(model, recipe)
    groups = [sample.group for sample in val_samples(recipe, samples)]
    penalty = recipe.adapters.orthogonality
    teachers = teachers_of(run, recipe.stage1)
    task = Task(model, recipe.stage1, description, groups, penalty, teachers)
    if adapters is not None:
        task.allocation = add_adapters(model, adapters, _steps(recipe, recipe.stage1, samples))
    model.gradient_checkpointing = recipe.gradient_checkpointing
    model.train()  # Lightning keeps the mode that it finds
    report = run_stage(run, 1, task, samples, recipe.stage1)
    description = replace(description, metrics=report.metrics, ranks=report.ranks)
    finish_stage(run, 1, model, description, report)
    return report


def open_first_stage(
    run: Run, samples: Sequence[Sample], start: Path
) -> tuple[LungSAM, Description]:
    """Load the network of a stage 1 and describe what stage 2 makes of it.

    Args:
        run: The run, of stage 2.
        samples: All samples.
        start: Checkpoint of a stage 1.

    Raises:
        CxrsegError: `start` is no checkpoint of a stage 1, has other labels, or has adapters and
            is to be averaged.
    """
    loaded = load(start)
    if loaded.description.quantization is not None:
        raise CxrsegError(start, "is quantized already", "start stage 2 from a stage 1 checkpoint")
    if loaded.description.labels != run.recipe.channels:
        raise CxrsegError(
            start,
            f"has the labels {', '.join(loaded.description.labels)}",
            "stage 2 keeps labels: give the same --labels",
        )
    if run.stages == "2" and run.average:
        if loaded.description.adapters is not None:
            cause = "has adapters, which cannot be averaged unless merged"
            remedy = "swap it with an --average that has none: those of --average are merged"
            raise CxrsegError(start, cause, remedy)
        others = [start_from(path, loaded.description) for path in run.average]
        average(loaded.model, others)
    description = replace(
        loaded.description,
        stage=2,
        quantization=run.recipe.quantization,
        data=summarize(samples),
        metrics={},
    )
    return loaded.model, description


def second_stage(run: Run, samples: Sequence[Sample], start: Path) -> StageReport:
    """Train what will be shipped: int8 weights seen with their adapters merged.

    Singular values and ranks are held; P and Q of the adapters and the decoder go on learning.

    Args:
        run: The run.
        samples: All samples.
        start: Checkpoint of a stage 1.

    Raises:
        CxrsegError: `start` is no checkpoint of this program.
    """
    recipe = run.recipe
    model, description = open_first_stage(run, samples, start)
    last = run.output / "stage2" / LAST
    if last.is_file():
        description = Description.from_dict(read_torch_file(last)["hyper_parameters"])
        quantize(model, description.quantization or recipe.quantization)
        set_mode(model, "quantize")
    else:
        description = prepare_quantization(model, recipe, samples, description)
    freeze(model.unused_modules())
    if description.adapters is not None:
        for parameter in model.image_encoder.parameters():
            parameter.requires_grad_(False)
        for name, parameter in model.image_encoder.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                parameter.requires_grad_(True)
        freeze_singular_values(model)
    elif description.method == "decoder":
        freeze([model.image_encoder])
    model.train()  # Lightning keeps the mode that it finds
    groups = [sample.group for sample in val_samples(recipe, samples)]
    # No gradient checkpointing: recomputation would track activation ranges twice.
    teachers = teachers_of(run, recipe.stage2)
    task = Task(model, recipe.stage2, description, groups, teachers=teachers)
    report = run_stage(run, 2, task, samples, recipe.stage2)
    description = replace(description, metrics=report.metrics, ranks=report.ranks)
    finish_stage(run, 2, model, description, report)
    return report


def prepare_quantization(
    model: LungSAM, recipe: Recipe, samples: Sequence[Sample], description: Description
) -> Description:
    """Quantize and calibrate a model in place, leaving sensitive layers in floating point.

    Returns:
        The description with the sensitivities and the layers that keep floating point.
    """
    config, spec = recipe.quantization, description.preprocessing
    images = [
        i["image"] for i in evenly(of_split(samples, "train"), spec, recipe.calibration_images)
    ]
    quantize(model, config)
    calibrate(model, [torch.stack(images[i : i + 16]) for i in range(0, len(images), 16)])
    items = evenly(of_split(samples, "val"), spec, recipe.sensitivity_images)
    mask, protocol = (torch.stack([i[key] for i in items]) for key in ("mask", "protocol"))

    def mean_dice(logits: torch.Tensor) -> float:
        return float(union_scores(logits, mask, protocol, model.labels)[0].nanmean())

    sensitivity = measure(model, torch.stack([i["image"] for i in items]), mean_dice)
    kept = sensitive(sensitivity, config)
    make_float(model, [layer for layer in layer_table(model) if layer.name in kept])
    config = config.model_copy(update={"keep_float": (*config.keep_float, *kept)})
    return replace(description, quantization=config, sensitivity=sensitivity)


First = Callable[[Any, Sequence[Sample]], StageReport]
Second = Callable[[Any, Sequence[Sample], Path], StageReport]


def train(
    run: Run, resume: bool, first: First = first_stage, second: Second = second_stage
) -> list[StageReport]:
    """Run the stages that are still to do and write ``model.ckpt``.

    Args:
        run: What to do.
        resume: Go on with the run in its folder.
        first: Stage 1: run and samples -> report; ends with `finish_stage`.
        second: Stage 2: run, samples and checkpoint of a stage 1 -> report; ends likewise.

    Returns:
        A report for each stage that ran in this call.

    Raises:
        CxrsegError: Something is wrong with the data, the options, the folder or a checkpoint.
        KeyboardInterrupt: Stopped; ``--resume`` goes on.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(lightning|torch|monai|peft)\..*")
    samples = read_data(run)
    if _first_process():  # the other devices' processes follow the first
        check_folder(run, resume)
        check_request(run)
        if not resume:
            check_pairs(samples)
            record_settings(run)
    reports = []
    one, two = run.output / "stage1.ckpt", run.output / "stage2.ckpt"
    if run.stages in ("1", "all") and not one.is_file():
        reports.append(first(run, samples))
    if run.stages in ("2", "all") and not two.is_file():
        start = run.checkpoint if run.stages == "2" and run.checkpoint else one
        reports.append(second(run, samples, start))
    final = one if run.stages == "1" else two
    if not _first_process():
        raise SystemExit(0)  # one process reports
    with atomic_write(run.output / MODEL) as beside:
        beside.write_bytes(final.read_bytes())
    return reports
