"""A run: stage 1, stage 2, the checkpoint and the report, resumable at any point."""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, RandomSampler, Sampler, WeightedRandomSampler
from tqdm import tqdm

from cxrseg.runtime.errors import CxrsegError
from cxrseg.runtime.files import atomic_write
from cxrseg.runtime.preprocess import Preprocessing
from cxrseg.trainer.adapters import add_adapters, freeze_singular_values
from cxrseg.trainer.augment import augmentation
from cxrseg.trainer.checkpoint import PREFIX, Description, build, load, save, start_from
from cxrseg.trainer.data import Sample, check_pair, of_split, read_samples, summarize
from cxrseg.trainer.dataset import LungDataset, balanced_weights, seed_augmentation, seed_worker
from cxrseg.trainer.lungsam import LungSAM, count_parameters, freeze
from cxrseg.trainer.progress import AllocateRanks, KeepLast
from cxrseg.trainer.quantization import calibrate, quantize, set_mode
from cxrseg.trainer.recipe import Recipe, StageChoice, StageRecipe
from cxrseg.trainer.sam import ARCHITECTURES, read_torch_file
from cxrseg.trainer.sensitivity import keep_float, measure, sensitive
from cxrseg.trainer.task import Task

SETTINGS = "run.json"
MODEL = "model.ckpt"
LAST = "last.ckpt"
BEST = "best.ckpt"

MACHINE = ("accelerator", "devices", "gradient_checkpointing", "checkpoint_minutes")
"""Settings of a recipe that may change when a run is resumed."""


@dataclass(frozen=True)
class Run:
    """What a run was asked to do.

    Attributes:
        data: Folders and CSV files.
        output: The run's folder.
        recipe: All settings.
        checkpoint: Where the weights start from; None for random ones.
        stages: Which stages to run.
    """

    data: tuple[Path, ...]
    output: Path
    recipe: Recipe
    checkpoint: Path | None
    stages: StageChoice

    def settings(self) -> dict[str, Any]:
        """Return all that must not change when the run is resumed, as plain data.

        What concerns the machine alone may change, and data and checkpoint may move.
        """
        recipe = self.recipe.model_dump(mode="json")
        for key in MACHINE:
            del recipe[key]
        del recipe["data"]["workers"]
        return {
            "data": [path.name for path in self.data],
            "checkpoint": None if self.checkpoint is None else self.checkpoint.name,
            "stages": self.stages,
            "recipe": recipe,
        }


@dataclass(frozen=True)
class StageReport:
    """Figures of one finished stage.

    Attributes:
        name: ``stage 1`` or ``stage 2``.
        metrics: ``val_dice``, ``val_iou`` and Dice per source.
        trainable: Number of trained parameters.
        total: Number of parameters.
        ranks: Rank of each adapted layer.
        seconds: Wall time of this call; less than the whole where a stage was resumed.
    """

    name: str
    metrics: dict[str, float]
    trainable: int
    total: int
    ranks: dict[str, int]
    seconds: float


def check_request(run: Run) -> None:
    """Check that the options fit together and the starting checkpoint is there.

    Raises:
        CxrsegError: They do not, or it is not.
    """
    method = run.recipe.method
    if run.checkpoint is not None:
        read_torch_file(run.checkpoint)
    elif run.stages == "2":
        raise CxrsegError("--stage 2", "needs a stage 1 model", "give it with --checkpoint")
    elif method != "full":
        raise CxrsegError(
            f"--method {method}",
            "adapts a trained model, and there is none",
            "give one with --checkpoint, or train from scratch with --method full",
        )


def check_folder(run: Run, resume: bool) -> None:
    """Check that the run's folder is free, or belongs to these settings; write nothing.

    Raises:
        CxrsegError: The folder is in use, or has other settings.
    """
    path = run.output / SETTINGS
    settings = run.settings()
    if resume and not path.is_file():
        raise CxrsegError(run.output, "no run to resume there", "leave --resume out to start one")
    # A run that was refused before its first stage leaves the folder free.
    started = any((run.output / name).exists() for name in ("stage1", "stage2", MODEL))
    if path.is_file() and (started or resume):
        if not resume:
            raise CxrsegError(
                run.output, "holds a run already", "add --resume to go on, or choose another -o"
            )
        try:
            recorded = _flat(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, AttributeError) as error:
            raise CxrsegError(path, f"damaged ({error})", "start a new run") from None
        now = _flat(settings)
        changed = [key for key in now if now[key] != recorded.get(key)]
        if changed:
            raise CxrsegError(
                run.output,
                f"the run has another {changed[0]} "
                f"({recorded.get(changed[0])!r}, now {now[changed[0]]!r})",
                "resume with the same options, or choose another -o",
            )


def record_settings(run: Run) -> None:
    """Create the run's folder with its settings.

    Raises:
        CxrsegError: It cannot be written.
    """
    try:
        run.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cause = f"cannot be written ({error.strerror})"
        raise CxrsegError(run.output, cause, "choose another -o") from None
    with atomic_write(run.output / SETTINGS) as beside:
        beside.write_text(json.dumps(run.settings(), indent=2), encoding="utf-8")


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def read_data(run: Run) -> list[Sample]:
    """List the samples of all sources of a run.

    Raises:
        CxrsegError: A source is unusable, or no training or validation image is left.
    """
    data = run.recipe.data
    samples: list[Sample] = []
    for source in run.data:
        where = data.where if source.is_file() else None
        samples += read_samples(source, where, data.group_column)
    learned = [s for s in samples if s.protocol in run.recipe.labels]
    for split in ("train", "val"):
        if not of_split(learned, split):
            raise CxrsegError(
                ", ".join(str(path) for path in run.data),
                f"no image of split {split!r} with a mask of protocol "
                f"{' or '.join(run.recipe.labels)}",
                "a run needs images to learn from (train) and to judge by (val)",
            )
    return learned


def check_pairs(samples: Sequence[Sample]) -> None:
    """Check all pairs before any work is done on one of them, with a progress bar.

    Raises:
        CxrsegError: For the first pair that is unusable.
    """
    with ThreadPoolExecutor() as pool:
        checks = pool.map(check_pair, samples)
        for _ in tqdm(checks, "checking masks", len(samples), leave=False, disable=None):
            pass


def _workers(recipe: Recipe) -> int:
    if recipe.data.workers >= 0:
        return recipe.data.workers
    usable = getattr(os, "sched_getaffinity", None)
    cpus = len(usable(0)) if usable else os.cpu_count() or 1
    return max(0, min(8, cpus - 1))


def _loader(
    recipe: Recipe, dataset: LungDataset, stage: StageRecipe, sampler: Sampler[int] | None
) -> DataLoader[dict[str, torch.Tensor]]:
    workers = _workers(recipe)
    return DataLoader(
        dataset,
        batch_size=stage.batch_size,
        sampler=sampler,
        num_workers=workers,
        worker_init_fn=seed_worker,
        persistent_workers=workers > 0,
        drop_last=sampler is not None and len(sampler) >= stage.batch_size,  # type: ignore[arg-type]
    )


def train_loader(
    recipe: Recipe, stage: StageRecipe, samples: Sequence[Sample], spec: Preprocessing
) -> DataLoader[dict[str, torch.Tensor]]:
    """Serve augmented training batches, drawn with replacement where sources are balanced."""
    dataset = LungDataset(samples, spec, augmentation(recipe.augment, spec.size))
    seed_augmentation(dataset, torch.initial_seed())
    count = stage.images_per_epoch or len(samples)
    sampler: Sampler[int]
    if recipe.data.balance:
        sampler = WeightedRandomSampler(balanced_weights(samples), count)
    else:
        sampler = RandomSampler(dataset, replacement=count > len(samples), num_samples=count)
    return _loader(recipe, dataset, stage, sampler)


def val_samples(recipe: Recipe, samples: Sequence[Sample]) -> list[Sample]:
    """Choose the validation images: all, or an even share."""
    own = of_split(samples, "val")
    limit = recipe.data.val_images
    if not limit or limit >= len(own):
        return own
    return [own[i * len(own) // limit] for i in range(limit)]


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
    recipe, started = run.recipe, time.monotonic()
    name = f"stage{number}"
    folder = run.output / name
    folder.mkdir(exist_ok=True)
    last = folder / LAST
    step = int(read_torch_file(last)["global_step"]) if last.is_file() else 0
    seed_everything(recipe.seed + step, workers=True, verbose=False)

    spec = task.description.preprocessing
    chosen = val_samples(recipe, samples)
    callbacks: list[Callback] = []
    if task.allocation is not None:
        callbacks.append(AllocateRanks(task.allocation))
    callbacks += [
        ModelCheckpoint(
            folder,
            "best",
            monitor="score",
            mode="max",
            save_weights_only=True,
            enable_version_counter=False,
        ),
        TQDMProgressBar(refresh_rate=5),
    ]
    if stage.patience:
        callbacks.append(EarlyStopping("score", mode="max", patience=stage.patience))
    callbacks.append(KeepLast(last, recipe.checkpoint_minutes))
    trainer = Trainer(
        accelerator=recipe.accelerator,
        devices=recipe.devices,
        precision=recipe.precision if number == 1 else "32-true",
        max_epochs=stage.epochs,
        gradient_clip_val=1.0,
        callbacks=callbacks,
        logger=_loggers(run.output, name, step),
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    try:
        trainer.fit(
            task,
            train_loader(recipe, stage, of_split(samples, "train"), spec),
            _loader(recipe, LungDataset(chosen, spec), stage, None),
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
    except RuntimeError as error:
        _, found, message = str(error).rpartition("CxrsegError: ")
        if not found:
            raise
        # A worker process hands over its exception as text.
        name_of_file, _, cause = message.strip().partition(": ")
        raise CxrsegError(name_of_file, cause) from None
    return StageReport(
        name=f"stage {number}",
        metrics=metrics,
        trainable=count_parameters(task.model, trainable=True),
        total=count_parameters(task.model),
        ranks=task.final_ranks(),
        seconds=time.monotonic() - started,
    )


def _validate(
    trainer: Trainer, task: Task, recipe: Recipe, chosen: Sequence[Sample], stage: StageRecipe
) -> dict[str, float]:
    loader = _loader(recipe, LungDataset(chosen, task.description.preprocessing), stage, None)
    results = trainer.validate(task, loader, verbose=False)[0]
    return {name: float(value) for name, value in results.items() if name.startswith("val_")}


def finish_stage(run: Run, number: int, task: Task, report: StageReport) -> Path:
    """Write the checkpoint of a finished stage."""
    description = replace(task.description, metrics=report.metrics, ranks=report.ranks)
    path = run.output / f"stage{number}.ckpt"
    if _first_process():
        save(task.model, description, path)
    _wait_for_all()
    return path


def _first_process() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0


def _wait_for_all() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def _steps(recipe: Recipe, stage: StageRecipe, samples: Sequence[Sample]) -> int:
    count = stage.images_per_epoch or len(of_split(samples, "train"))
    devices = Trainer(
        accelerator=recipe.accelerator,
        devices=recipe.devices,
        logger=False,
        enable_checkpointing=False,
    ).world_size
    return stage.epochs * max(1, count // (stage.batch_size * devices))


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
    prepare_method(model, recipe)
    groups = [sample.group for sample in val_samples(recipe, samples)]
    penalty = recipe.adapters.orthogonality
    task = Task(model, recipe.stage1, description, groups, penalty)
    if adapters is not None:
        task.allocation = add_adapters(model, adapters, _steps(recipe, recipe.stage1, samples))
    model.gradient_checkpointing = recipe.gradient_checkpointing
    model.train()  # Lightning keeps the mode that it finds
    report = run_stage(run, 1, task, samples, recipe.stage1)
    finish_stage(run, 1, task, report)
    return report


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
    loaded = load(start)
    if loaded.description.quantization is not None:
        raise CxrsegError(start, "is quantized already", "start stage 2 from a stage 1 checkpoint")
    model = loaded.model
    if loaded.description.labels != recipe.channels:
        raise CxrsegError(
            start,
            f"has the labels {', '.join(loaded.description.labels)}",
            "stage 2 keeps labels: give the same --labels",
        )
    description = replace(
        loaded.description,
        stage=2,
        quantization=recipe.quantization,
        data=summarize(samples),
        metrics={},
    )
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
    task = Task(model, recipe.stage2, description, groups)
    report = run_stage(run, 2, task, samples, recipe.stage2)
    finish_stage(run, 2, task, report)
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
        i["image"] for i in _evenly(of_split(samples, "train"), spec, recipe.calibration_images)
    ]
    quantize(model, config)
    calibrate(model, [torch.stack(images[i : i + 16]) for i in range(0, len(images), 16)])
    table = measure(model, _evenly(of_split(samples, "val"), spec, recipe.sensitivity_images))
    kept = sensitive(table, config)
    keep_float(model, kept)
    config = config.model_copy(update={"keep_float": (*config.keep_float, *kept)})
    return replace(description, quantization=config, sensitivity=table)


def _evenly(
    samples: Sequence[Sample], spec: Preprocessing, count: int
) -> list[dict[str, torch.Tensor]]:
    count = min(count, len(samples))
    dataset = LungDataset([samples[i * len(samples) // count] for i in range(count)], spec)
    return [dataset[i] for i in range(count)]


def train(run: Run, resume: bool) -> list[StageReport]:
    """Run the stages that are still to do and write ``model.ckpt``.

    Args:
        run: What to do.
        resume: Go on with the run in its folder.

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
    first, second = run.output / "stage1.ckpt", run.output / "stage2.ckpt"
    if run.stages in ("1", "all") and not first.is_file():
        reports.append(first_stage(run, samples))
    if run.stages in ("2", "all") and not second.is_file():
        start = run.checkpoint if run.stages == "2" and run.checkpoint else first
        reports.append(second_stage(run, samples, start))
    final = first if run.stages == "1" else second
    if not _first_process():
        raise SystemExit(0)  # one process reports
    with atomic_write(run.output / MODEL) as beside:
        beside.write_bytes(final.read_bytes())
    return reports


def table(reports: Sequence[StageReport]) -> str:
    """Return the closing table of a run as text."""
    lines = [f"{'':9} {'Dice':>7} {'IoU':>7} {'trained':>12} {'of':>12} {'seconds':>9}"]
    for report in reports:
        dice = report.metrics.get("val_dice", float("nan"))
        iou = report.metrics.get("val_iou", float("nan"))
        lines.append(
            f"{report.name:9} {dice:7.4f} {iou:7.4f} {report.trainable:12,} {report.total:12,} "
            f"{report.seconds:9.0f}"
        )
        for name, value in sorted(report.metrics.items()):
            if "/" in name:
                lines.append(f"  {name.removeprefix('val_dice/'):24} Dice {value:.4f}")
    ranks = reports[-1].ranks if reports else {}
    if ranks:
        lines.append(f"ranks, {sum(ranks.values())} in all:")
        blocks: dict[str, list[str]] = {}
        for name, rank in ranks.items():
            _, _, block, *rest = name.split(".")
            kind = [part for part in rest if part not in ("layer", "attn", "mlp", "qkv")]
            blocks.setdefault(block, []).append(f"{kind[0]} {rank:2}")
        lines += [f"  block {block:>2}: {'  '.join(parts)}" for block, parts in blocks.items()]
    return "\n".join(lines)
