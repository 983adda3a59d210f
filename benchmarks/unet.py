"""The network that a user would pick instead: MONAI's U-Net, trained and exported as ours are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import onnx
import torch
from lightning.pytorch import seed_everything
from monai.networks.nets.unet import UNet as MonaiUNet
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cxrseg.benchmarks.methods_rows import LEVELS
from cxrseg.export.compiling import finish, trace
from cxrseg.export.writing import save, staged
from cxrseg.runtime.card import METADATA_KEY, ModelCard
from cxrseg.runtime.errors import CxrsegError
from cxrseg.runtime.preprocess import Preprocessing
from cxrseg.runtime.session import INPUT
from cxrseg.runtime.version import package_version
from cxrseg.trainer.checkpoint import PREFIX
from cxrseg.trainer.data import Sample, summarize
from cxrseg.trainer.loaders import val_samples
from cxrseg.trainer.report import StageReport
from cxrseg.trainer.run import Run
from cxrseg.trainer.sam import read_torch_file
from cxrseg.trainer.task import Task
from cxrseg.trainer.training import finish_stage, run_stage

FORMAT = "cxrseg-unet-checkpoint"

NAME = "monai-unet"
"""Name in the model card."""

GRID = 4
"""Pixels per logit, along each side: that of every model file of cxrseg."""

UNITS = 2
"""Convolutions of a residual unit, as in MONAI's tutorials."""


class UNet(nn.Module):
    """MONAI's U-Net of residual units behind the contract of a model file of cxrseg.

    Its own output is at full resolution; the logits are averaged over 4 x 4 pixels at the end.
    Batch normalization as in MONAI's tutorials, and ReLU: both fold into the convolutions.

    Args:
        features: Channels of the five levels, the finest first.
        labels: Channel names.
    """

    def __init__(self, features: Sequence[int], labels: Sequence[str]) -> None:
        super().__init__()
        self.network = MonaiUNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=len(labels),
            channels=tuple(features),
            strides=(2,) * (LEVELS - 1),
            num_res_units=UNITS,
            act="relu",
            norm="batch",
        )
        # Trains 1.5 times as fast on a CPU.
        cast(Any, self.network).to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        """Segment.

        Args:
            image: float32 [B, 1, S, S] in [0, 1], as `cxrseg.runtime.preprocess` makes it.

        Returns:
            Logits float32 [B, C, S / 4, S / 4]; above 0 is lung.
        """
        return F.avg_pool2d(self.network(image), GRID)


@dataclass(frozen=True)
class Description:
    """Plain data that rebuilds a U-Net, with what is known of its training.

    Attributes:
        features: As `UNet` takes them.
        labels: Channel names.
        preprocessing: The input contract.
        images: Number of images that it was trained on, repetitions and earlier runs included.
        data: ``group/protocol/split`` -> number of samples.
        metrics: Figures of the last validation.
        version: Version of the package that wrote it.
    """

    features: tuple[int, ...]
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    images: int = 0
    data: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    version: str = ""

    @property
    def quantization(self) -> None:
        """None: U-Nets are trained in float."""
        return

    def to_dict(self) -> dict[str, Any]:
        """Return dicts, lists, strings and numbers only."""
        plain = asdict(self)
        plain["features"], plain["labels"] = list(self.features), list(self.labels)
        return {"format": FORMAT, **plain, "preprocessing": self.preprocessing.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Description:
        """Rebuild from `to_dict`.

        Raises:
            ValueError, KeyError, TypeError: The data is no description.
        """
        if data["format"] != FORMAT:
            raise ValueError("not of a U-Net")
        return cls(
            features=tuple(int(n) for n in data["features"]),
            labels=tuple(str(name) for name in data["labels"]),
            preprocessing=Preprocessing.from_dict(data["preprocessing"]),
            images=int(data["images"]),
            data={str(k): int(v) for k, v in data["data"].items()},
            metrics={str(k): float(v) for k, v in data["metrics"].items()},
            version=str(data["version"]),
        )


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


def load_unet(path: Path) -> tuple[UNet, Description]:
    """Read a checkpoint of `train_unet`, in evaluation mode.

    Raises:
        CxrsegError: The file is missing, unsafe, of another program, or damaged.
    """
    checkpoint = read_torch_file(path)
    try:
        description = Description.from_dict(checkpoint["hyper_parameters"])
        model = UNet(description.features, description.labels)
        state = checkpoint["state_dict"].items()
        model.load_state_dict({name.removeprefix(PREFIX): value for name, value in state})
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        cause = f"not a U-Net of cxrseg-bench methods ({' '.join(str(error).split())[:200]})"
        raise CxrsegError(path, cause, "give the model.ckpt of a row of that name") from None
    return model.eval(), description


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
    """Train everything, as stage 1 of `cxrseg.trainer.training.train` does with a SAM.

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
    with staged(path) as beside:
        save(graph, beside)


def write_int8(fp32: Path, images: Iterable[NDArray[np.float32]], path: Path) -> None:
    """Quantize as ONNX Runtime's users do: static, QDQ, per channel, ranges from the data.

    Args:
        fp32: File of `write_fp32`.
        images: float32 [S, S] as `cxrseg.runtime.preprocess` makes them, to calibrate with.
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
    with staged(path) as beside, TemporaryDirectory() as folder:
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
