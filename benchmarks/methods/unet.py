"""The network that a user would pick instead: MONAI's U-Net, trained and exported as ours are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from lightning.pytorch import seed_everything
from numpy.typing import NDArray

from cxrseg.export.graph.compile import finish, trace
from cxrseg.export.graph.files import atomic_outputs, save
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.model_card import METADATA_KEY, ModelCard
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.inference.session import INPUT
from cxrseg.trainer.data.loaders import val_samples
from cxrseg.trainer.data.samples import Sample, summarize
from cxrseg.trainer.fit.module import Task
from cxrseg.trainer.fit.report import StageReport
from cxrseg.trainer.fit.run import Run
from cxrseg.trainer.fit.stages import finish_stage, run_stage
from cxrseg.trainer.networks.unet import Description, UNet, load_unet

NAME = "monai-unet"
"""Name in the model card."""


@dataclass(frozen=True)
class UNetRun(Run):
    """A run of a U-Net.

    Attributes:
        features: As `UNet` takes them.
    """

    features: tuple[int, ...]

    def settings(self) -> dict[str, Any]:
        """Return all that must not change when the run is resumed, as plain data."""
        return {**super().settings(), "features": list(self.features)}


def starting_network(run: UNetRun) -> tuple[UNet, int]:
    """Return the network that a run begins with, and the number of images that it has seen.

    Raises:
        CxrsegError: The run's checkpoint is no U-Net's, or one of other features or labels.
    """
    labels = run.recipe.channels
    if run.checkpoint is None:
        return UNet(run.features, labels), 0
    model, start = load_unet(run.checkpoint)
    if (start.features, start.labels) != (run.features, labels):
        found = ",".join(str(number) for number in start.features)
        cause = f"is a U-Net of features {found} with the labels {', '.join(start.labels)}"
        raise CxrsegError(run.checkpoint, cause, "give the same --features, and a recipe for them")
    return model, start.images


def train_unet(run: UNetRun, samples: Sequence[Sample]) -> StageReport:
    """Train everything, as stage 1 of `cxrseg.trainer.fit.stages.train` does with a SAM.

    Args:
        run: The run; its checkpoint is a U-Net's, or None to start from random weights.
        samples: All samples.

    Raises:
        CxrsegError: The starting checkpoint does not fit, or is missing.
    """
    recipe = run.recipe
    seed_everything(recipe.seed, verbose=False)
    model, images = starting_network(run)
    description = Description(
        features=run.features,
        labels=recipe.channels,
        preprocessing=Preprocessing(recipe.image_size),
        data=summarize(samples),
        version=package_version(),
    )
    model.train()  # Lightning keeps the mode that it finds
    groups = [sample.group for sample in val_samples(recipe, samples)]
    task = Task(model, recipe.stage1, description, groups)
    report = run_stage(run, 1, task, samples, recipe.stage1)
    description = replace(description, images=images + report.images, metrics=report.metrics)
    finish_stage(run, 1, model, description, report)
    return report


def write_fp32(model: UNet, description: Description, checkpoint_sha256: str, path: Path) -> None:
    """Export to an ONNX file with the contract of a model file of cxrseg.

    Args:
        model: The network, in evaluation mode.
        description: Of the network.
        checkpoint_sha256: Hash of the checkpoint that it comes from.
        path: The file to write.
    """
    card = ModelCard(
        name=NAME,
        version=package_version(),
        labels=description.labels,
        preprocessing=description.preprocessing,
        checkpoint_sha256=checkpoint_sha256,
        metrics=description.metrics,
    )
    graph = trace(model, description.preprocessing.size)
    finish(graph, card)
    with atomic_outputs(path) as beside:
        save(graph, beside)


def write_int8(fp32: Path, images: Iterable[NDArray[np.float32]], path: Path) -> None:
    """Quantize as ONNX Runtime's users do: static, QDQ, per channel, ranges from the data.

    Args:
        fp32: File of `write_fp32`.
        images: float32 [S, S] as `cxrseg.runtime.core.preprocess` makes them, to calibrate with.
        path: The file to write.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = ({INPUT: image[None, None]} for image in images)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self._feeds, None)

    card = onnx.load(fp32).metadata_props[0].value
    with atomic_outputs(path) as beside, TemporaryDirectory() as folder:
        prepared, quantized = Path(folder, "prepared.onnx"), Path(folder, "int8.onnx")
        quant_pre_process(fp32, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantized,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        model = onnx.load(quantized)
        onnx.helper.set_model_props(model, {METADATA_KEY: card})
        beside.write_bytes(model.SerializeToString())
