"""MONAI's U-Net behind the contract of our networks: a network of its own, and a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.trainer.networks.sizes import MAX_WIDTH, require_labels, require_whole

NAME = "unet"
"""What recipes and checkpoints call this network."""

GRID = 4
"""Pixels per logit, along each side: that of every model file of cxrseg."""

UNITS = 2
"""Convolutions of a residual unit, as in MONAI's tutorials."""


MAX_LEVELS = 12
"""Most levels: the largest image, of 2,048 pixels a side, can be halved 11 times."""


@dataclass(frozen=True)
class UNetArchitecture:
    """Size of a U-Net.

    Attributes:
        channels: Of the levels, the finest first; each level but the first halves the image's side.

    Raises:
        ValueError: There is no such network, or it is far larger than any that is known.
    """

    channels: tuple[int, ...]

    def __post_init__(self) -> None:
        require_whole("the number of levels", len(self.channels), 2, MAX_LEVELS)
        for number in self.channels:
            require_whole("a number of channels", number, 1, MAX_WIDTH)

    @property
    def name(self) -> str:
        """What recipes and checkpoints call the network."""
        return NAME

    def to_dict(self) -> dict[str, Any]:
        """Return plain data (a string, and a list of ints) for a checkpoint."""
        return {"name": NAME, "channels": list(self.channels)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> UNetArchitecture:
        """Rebuild from `to_dict`."""
        return cls(tuple(data["channels"]))


class UNet(nn.Module):
    """MONAI's U-Net of residual units: gray image in, one logit map per label out.

    Its own output is at full resolution; the logits are averaged over 4 x 4 pixels at the end.
    Batch normalization as in MONAI's tutorials, and ReLU: both fold into the convolutions.

    Args:
        architecture: Size of the network.
        image_size: Side S of the input in pixels; the network itself takes any that it can halve.
        labels: Channel names, known to `cxrseg.runtime.core.labels`.

    Raises:
        CxrsegError: MONAI is not installed.
        ValueError: There is no label.
    """

    def __init__(
        self, architecture: UNetArchitecture, image_size: int, labels: Sequence[str]
    ) -> None:
        super().__init__()
        self.labels = require_labels(labels)
        self.architecture = architecture
        self.image_size = image_size
        # Trains 1.5 times as fast on a CPU.
        self.network = _monai_unet(architecture, len(labels)).to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        """Segment.

        Args:
            image: float32 [B, 1, S, S] in [0, 1], as `cxrseg.runtime.core.preprocess` makes it.

        Returns:
            Logits float32 [B, C, S / 4, S / 4], C = number of labels; above 0 is lung.
        """
        return F.avg_pool2d(self.network(image), GRID)

    def unused_modules(self) -> list[nn.Module]:
        """Return the parts that no mask depends on: none."""
        return []


def _monai_unet(architecture: UNetArchitecture, outputs: int) -> Any:
    try:
        # Here, because MONAI is slow to import and comes with the extra `train` alone.
        from monai.networks.nets.unet import UNet as MonaiUNet
    except ModuleNotFoundError as error:
        remedy = "pip install 'cxrseg[train]'"
        raise CxrsegError("U-Net", f"needs {error.name}, which is not installed", remedy) from None
    return MonaiUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=outputs,
        channels=architecture.channels,
        strides=(2,) * (len(architecture.channels) - 1),
        num_res_units=UNITS,
        act="relu",
        norm="batch",
    )
