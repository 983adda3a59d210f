"""MONAI's U-Net behind the contract of our networks: to compare with, and to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from monai.networks.nets.unet import UNet as MonaiUNet
from torch import Tensor, nn
from torch.nn import functional as F

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.trainer.fit.checkpoint import PREFIX
from cxrseg.trainer.networks.sam import read_torch_file

FORMAT = "cxrseg-unet-checkpoint"

GRID = 4
"""Pixels per logit, along each side: that of every model file of cxrseg."""

UNITS = 2
"""Convolutions of a residual unit, as in MONAI's tutorials."""


class UNet(nn.Module):
    """MONAI's U-Net of residual units behind the contract of a model file of cxrseg.

    Its own output is at full resolution; the logits are averaged over 4 x 4 pixels at the end.
    Batch normalization as in MONAI's tutorials, and ReLU: both fold into the convolutions.

    Args:
        features: Channels of the levels, the finest first.
        labels: Channel names.
    """

    def __init__(self, features: Sequence[int], labels: Sequence[str]) -> None:
        super().__init__()
        self.network = MonaiUNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=len(labels),
            channels=tuple(features),
            strides=(2,) * (len(features) - 1),
            num_res_units=UNITS,
            act="relu",
            norm="batch",
        )
        # Trains 1.5 times as fast on a CPU.
        cast(Any, self.network).to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        """Segment.

        Args:
            image: float32 [B, 1, S, S] in [0, 1], as `cxrseg.runtime.core.preprocess` makes it.

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


def load_unet(path: Path) -> tuple[UNet, Description]:
    """Read a U-Net that ``cxrseg-bench methods`` trained, in evaluation mode.

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
