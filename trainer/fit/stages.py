"""A run: stage 1, stage 2, the checkpoint and the report, resumable at any point."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from shutil import copyfile

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.files.atomic import atomic_write
from cxrseg.trainer.adapt.adapters import add_adapters, freeze_singular_values
from cxrseg.trainer.adapt.layer_table import layer_table
from cxrseg.trainer.adapt.quantization import calibrate, make_float, quantize, set_mode
from cxrseg.trainer.adapt.sensitivity import measure, sensitive
from cxrseg.trainer.check.pairs import check_pairs
from cxrseg.trainer.data.loaders import evenly, val_samples
from cxrseg.trainer.data.samples import Sample, of_split, summarize
from cxrseg.trainer.fit.checkpoint import MODEL, Description, build, load, save
from cxrseg.trainer.fit.distillation import Teacher, load_teacher
from cxrseg.trainer.fit.losses import union_scores
from cxrseg.trainer.fit.module import Task
from cxrseg.trainer.fit.report import StageReport
from cxrseg.trainer.fit.run import (
    Run,
    check_folder,
    check_request,
    only_run,
    read_data,
    record_settings,
)
from cxrseg.trainer.fit.start import model_soup, start_from
from cxrseg.trainer.fit.training import LAST, count_steps, run_stage
from cxrseg.trainer.networks.build import AnyArchitecture, AnySAM, Network
from cxrseg.trainer.networks.edge import EDGE, EdgeSAM
from cxrseg.trainer.networks.lungsam import LungSAM, freeze
from cxrseg.trainer.networks.sam import ARCHITECTURES
from cxrseg.trainer.networks.torch_file import read_torch_file
from cxrseg.trainer.networks.unet import UNet, UNetArchitecture
from cxrseg.trainer.recipe import Recipe, StageRecipe

CALIBRATION_BATCH = 16


def architecture_of(recipe: Recipe) -> AnyArchitecture:
    """Return the architecture that a recipe asks for."""
    if recipe.model == "unet":
        return UNetArchitecture(recipe.unet.channels)
    if recipe.model in EDGE:
        # Adapters take kernels as they are shipped.
        return replace(EDGE[recipe.model], folded=recipe.method != "full")
    architecture = ARCHITECTURES[recipe.model]
    return architecture.with_global_attention() if recipe.global_attention else architecture


def describe(recipe: Recipe) -> Description:
    """Describe the network of stage 1 that a recipe asks for, before it has learned anything."""
    return Description(
        architecture=architecture_of(recipe),
        labels=recipe.channels,
        preprocessing=Preprocessing(recipe.image_size),
        stage=1,
        method=recipe.method,
        adapters=recipe.adapters if recipe.method == "adalora" else None,
        images=0,
        version=package_version(),
    )


def untrained(model: Network, stage: StageRecipe) -> Sequence[nn.Module]:
    """Return the parts of a network that a stage's loss never reaches."""
    if stage.clicks and isinstance(model, EdgeSAM):
        return [*model.prompt_encoder.point_embeddings[2:]]  # the corners of a box
    return model.unused_modules()


def first_stage(run: Run, samples: Sequence[Sample]) -> StageReport:
    """Train in float: everything, the decoder, or adapters and decoder.

    Raises:
        CxrsegError: The starting checkpoint does not fit, or is missing.
    """
    recipe = run.recipe
    description = replace(describe(recipe), data=summarize(samples))
    seed_everything(recipe.seed, verbose=False)
    if run.checkpoint is None:
        model = build(replace(description, adapters=None))
    else:
        model, seen = start_from(run.checkpoint, description)
        description = replace(description, images=seen)
        model_soup(model, [start_from(path, description)[0] for path in run.soup])
    freeze(untrained(model, recipe.stage1))
    groups = [sample.group for sample in val_samples(recipe, samples)]
    task = Task(model, recipe.stage1, description, recipe.augment, groups)
    task.teachers = teachers_of(run, recipe.stage1)
    if not isinstance(model, UNet):
        if recipe.method == "decoder":
            freeze([model.image_encoder])
        if description.adapters is not None:
            steps = count_steps(recipe, recipe.stage1, samples)
            task.allocation = add_adapters(model, description.adapters, steps)
    if isinstance(model, LungSAM):
        model.gradient_checkpointing = recipe.gradient_checkpointing
    model.train()  # Lightning keeps the mode that it finds
    report = run_stage(run, 1, task, samples)
    finish_stage(run, 1, model, description, report)
    return report


def open_first_stage(
    run: Run, samples: Sequence[Sample], start: Path
) -> tuple[AnySAM, Description]:
    """Load the network of a stage 1 and describe what stage 2 makes of it.

    Args:
        run: The run, of stage 2.
        samples: All samples.
        start: Checkpoint of a stage 1.

    Raises:
        CxrsegError: `start` is no checkpoint of a stage 1 of a SAM, has other labels, or has
            adapters and is to be averaged.
    """
    loaded = load(start)
    model, before = loaded.model, loaded.description
    if isinstance(model, UNet):
        cause = f"is a {before.model}, which has no quantization-aware training"
        raise CxrsegError(start, cause, "cxrseg-export calibrates it to INT8 as it is")
    if before.quantization is not None:
        raise CxrsegError(start, "is quantized already", "start stage 2 from a stage 1 checkpoint")
    if before.labels != run.recipe.channels:
        cause = f"has the labels {', '.join(before.labels)}"
        raise CxrsegError(start, cause, "stage 2 keeps labels: give the same --labels")
    if run.stages == "2" and run.soup:
        if before.adapters is not None:
            cause = "has adapters, which cannot be averaged unless merged"
            remedy = "swap it with a --soup that has none: those of --soup are merged"
            raise CxrsegError(start, cause, remedy)
        model_soup(model, [start_from(path, before)[0] for path in run.soup])
    if isinstance(model, EdgeSAM):
        model.fold()
    described = replace(
        before, architecture=model.architecture, data=summarize(samples), metrics={}
    )
    return model, replace(described, stage=2, quantization=run.recipe.quantization)


def second_stage(run: Run, samples: Sequence[Sample], start: Path) -> StageReport:
    """Train what will be shipped: int8 weights seen with their adapters merged.

    Singular values and ranks are held; P and Q of the adapters and the decoder go on learning.
    Without epochs the network is calibrated alone, which is post-training quantization.

    Args:
        run: The run.
        samples: All samples.
        start: Checkpoint of a stage 1.

    Raises:
        CxrsegError: `start` is no checkpoint that stage 2 can start from.
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
    freeze_for_quantization(model, recipe.stage2, description)
    model.train()  # Lightning keeps the mode that it finds
    groups = [sample.group for sample in val_samples(recipe, samples)]
    # No gradient checkpointing: recomputation would track activation ranges twice.
    task = Task(model, recipe.stage2, description, recipe.augment, groups)
    task.teachers = teachers_of(run, recipe.stage2)
    report = run_stage(run, 2, task, samples)
    finish_stage(run, 2, model, description, report)
    return report


def freeze_for_quantization(model: AnySAM, stage: StageRecipe, description: Description) -> None:
    """Exclude from stage 2 what it holds: singular values, and what stage 1 did not train."""
    freeze(untrained(model, stage))
    if description.adapters is not None:
        for name, parameter in model.image_encoder.named_parameters():
            parameter.requires_grad_("lora_A" in name or "lora_B" in name)
        freeze_singular_values(model)
    elif description.method == "decoder":
        freeze([model.image_encoder])


def prepare_quantization(
    model: AnySAM, recipe: Recipe, samples: Sequence[Sample], description: Description
) -> Description:
    """Quantize and calibrate a model in place, leaving sensitive layers in floating point.

    Returns:
        The description with the sensitivities and the layers that keep floating point.
    """
    config, spec = recipe.quantization, description.preprocessing
    images = evenly(of_split(samples, "train"), spec, recipe.calibration_images)["image"]
    quantize(model, config)
    calibrate(model, torch.split(images, CALIBRATION_BATCH))
    judged = evenly(of_split(samples, "val"), spec, recipe.sensitivity_images)
    mask, protocol = judged["mask"], judged["protocol"]

    def mean_dice(logits: torch.Tensor) -> float:
        return float(union_scores(logits, mask, protocol, model.labels)[0].nanmean())

    sensitivity = measure(model, judged["image"], mean_dice)
    kept = sensitive(sensitivity, config)
    make_float(model, [layer for layer in layer_table(model) if layer.name in kept])
    config = config.model_copy(update={"keep_float": (*config.keep_float, *kept)})
    return replace(description, quantization=config, sensitivity=sensitivity)


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
            check_pairs(samples, run.recipe.data.max_odd)
            record_settings(run)
    with only_run(run) if _first_process() else nullcontext():
        return _train_stages(run, samples)


def _train_stages(run: Run, samples: Sequence[Sample]) -> list[StageReport]:
    reports = []
    one, two = run.output / "stage1.ckpt", run.output / "stage2.ckpt"
    if run.stages in ("1", "all") and not one.is_file():
        reports.append(first_stage(run, samples))
    if run.stages in ("2", "all") and not two.is_file():
        start = run.checkpoint if run.stages == "2" and run.checkpoint else one
        reports.append(second_stage(run, samples, start))
    final = one if run.stages == "1" else two
    if not _first_process():
        raise SystemExit(0)  # one process reports
    with atomic_write(run.output / MODEL) as path:
        copyfile(final, path)
    return reports


def finish_stage(
    run: Run, number: int, model: Network, description: Description, report: StageReport
) -> None:
    """Write report (``stage1.json``) and checkpoint (``stage1.ckpt``) of a finished stage.

    Args:
        run: The run.
        number: 1 or 2.
        model: The trained network.
        description: Of the network as it was when the stage began.
        report: What came of it; its figures complete the description.
    """
    before = description.images
    images = None if before is None else before + report.images
    description = replace(description, metrics=report.metrics, ranks=report.ranks, images=images)
    if _first_process():
        with atomic_write(run.output / f"stage{number}.json") as path:
            path.write_text(json.dumps(asdict(report), indent=2), encoding="utf-8")
        save(model, description, run.output / f"stage{number}.ckpt")
    _wait_for_all()


def _first_process() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0


def _wait_for_all() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def teachers_of(run: Run, stage: StageRecipe) -> list[Teacher]:
    """Load the networks that a stage learns from.

    Raises:
        CxrsegError: One cannot be read, or has none of the run's labels.
    """
    teachers = []
    for path in run.teachers if stage.distillation else ():
        teacher = load_teacher(path)
        if not set(teacher.labels) & set(run.recipe.channels):
            cause = f"has the labels {', '.join(teacher.labels)}, and none of the run's"
            raise CxrsegError(path, cause, "give the same --labels, or another --teacher")
        teachers.append(teacher)
    return teachers
