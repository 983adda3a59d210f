"""One stage of one network, trained by Lightning to its end from where it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.trainer.data.dataset import LungDataset
from cxrseg.trainer.data.loaders import plain_loader, train_loader, val_samples
from cxrseg.trainer.data.samples import Sample, of_split
from cxrseg.trainer.fit.callbacks import EMA, AllocateRanks, KeepLast
from cxrseg.trainer.fit.checkpoint import PREFIX
from cxrseg.trainer.fit.module import DEVICES, Task
from cxrseg.trainer.fit.report import StageReport
from cxrseg.trainer.fit.run import Run
from cxrseg.trainer.networks.lungsam import count_parameters
from cxrseg.trainer.networks.torch_file import read_torch_file
from cxrseg.trainer.recipe import Recipe, StageRecipe

LAST = "last.ckpt"
BEST = "best.ckpt"


def run_stage(run: Run, number: int, task: Task, samples: Sequence[Sample]) -> StageReport:
    """Train one stage to its end, from where it was, and load its best weights.

    Args:
        run: The run.
        number: 1 or 2; its state is kept in the folder ``stage1`` or ``stage2``.
        task: What is trained, and how.
        samples: All samples.

    Raises:
        KeyboardInterrupt: Stopped by Ctrl-C; the state is saved.
        CxrsegError: The saved state or an image cannot be read, or the device is not there or has
            too little memory.
    """
    recipe, stage, spec = run.recipe, task.stage, task.description.preprocessing
    name = f"stage{number}"
    folder = run.output / name
    folder.mkdir(exist_ok=True)
    last = folder / LAST
    saved = read_torch_file(last) if last.is_file() else {}
    step = int(saved.get("global_step", 0))
    seed_everything(recipe.seed + step, workers=True, verbose=False)
    trainer = make_trainer(
        recipe,
        precision=recipe.precision if number == 1 else "32-true",
        max_epochs=stage.epochs,
        gradient_clip_val=1.0,
        callbacks=_callbacks(task, folder, recipe.checkpoint_minutes),
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
    own = of_split(samples, "train")
    validation = LungDataset(val_samples(recipe, samples), spec)
    with _plain_failures():
        if stage.epochs:
            trainer.fit(
                task,
                train_loader(recipe, stage, own, spec, trainer.world_size),
                plain_loader(validation, stage, None),
                ckpt_path=last if last.is_file() else None,
                weights_only=True,
            )
            _load_best(task, folder)
        loader = plain_loader(validation, stage, None)
        results = trainer.validate(task, loader, verbose=False)[0]
    drawn = stage.images_per_epoch or len(own)
    return StageReport(
        name=f"stage {number}",
        metrics={key: float(value) for key, value in results.items() if key.startswith("val_")},
        trainable=count_parameters(task.model, trainable=True),
        total=count_parameters(task.model),
        ranks=task.final_ranks(),
        images=trainer.global_step * min(stage.batch_size, drawn) * trainer.world_size,
        seconds=task.seconds,
    )


@contextmanager
def _plain_failures() -> Iterator[None]:
    """Turn what Lightning makes of Ctrl-C, and what a full device says, into plain exceptions."""
    try:
        yield
    except SystemExit:
        # Lightning turns Ctrl-C into an exit of its own after the callbacks have saved.
        raise KeyboardInterrupt from None
    except torch.OutOfMemoryError as error:
        remedy = "take a smaller batch_size, or gradient_checkpointing: true"
        raise CxrsegError("training", "the device has not enough memory", remedy) from error


def _load_best(task: Task, folder: Path) -> None:
    best = folder / BEST
    state = read_torch_file(best if best.is_file() else folder / LAST)["state_dict"]
    task.model.load_state_dict({k.removeprefix(PREFIX): v for k, v in state.items()})


def _callbacks(task: Task, folder: Path, minutes: float) -> list[Callback]:
    stage = task.stage
    callbacks: list[Callback] = []
    if task.allocation is not None:
        callbacks.append(AllocateRanks(task.allocation))
    if stage.ema:
        callbacks.append(EMA(stage.ema))
    callbacks += [
        ModelCheckpoint(
            folder,
            Path(BEST).stem,
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
    return [*callbacks, KeepLast(folder / LAST, minutes)]


def _loggers(output: Path, name: str, step: int) -> list[Logger]:
    # Lightning's loggers begin a file anew, so a resumed stage gets its own.
    part = f"from_step_{step}" if step else ""
    loggers: list[Logger] = [CSVLogger(output, name=name, version=part)]
    if find_spec("tensorboard") is not None:
        loggers.append(TensorBoardLogger(output, name=name, version=part))
    return loggers


def make_trainer(recipe: Recipe, **settings: Any) -> Trainer:
    """Return Lightning's trainer on the recipe's devices.

    Raises:
        CxrsegError: They are not there.
    """
    try:
        return Trainer(accelerator=recipe.accelerator, devices=recipe.devices, **settings)
    except (MisconfigurationException, ValueError) as error:
        wanted = f"accelerator {recipe.accelerator}, devices {recipe.devices}"
        cause = f"cannot be used ({' '.join(str(error).split())[:200]})"
        raise CxrsegError(wanted, cause, "name what is there in the recipe, or auto") from error


def count_steps(recipe: Recipe, stage: StageRecipe, samples: Sequence[Sample]) -> int:
    """Return the number of optimizer steps that a stage takes on the recipe's devices.

    Raises:
        CxrsegError: They are not there.
    """
    count = stage.images_per_epoch or len(of_split(samples, "train"))
    devices = make_trainer(recipe, logger=False, enable_checkpointing=False).world_size
    # Each device draws as many, rounded up, and drops what makes no whole batch.
    return stage.epochs * max(1, -(-count // devices) // stage.batch_size)
