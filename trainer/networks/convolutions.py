"""The convolutional image encoder of the edge SAM: a stem and residual stages (He et al. 2016).

A kernel is kept as the matrix that it is, outputs by inputs x rows x columns, so that an adapter
takes it as it takes a Linear. What is rounded in INT8 is rounded once: where a feature map goes
two ways, both take the steps of the convolution that reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_linear_bn_eval

from cxrseg.trainer.networks.layers import effective


class Convolution(nn.Module):
    """A convolution and its batch norm, or, folded, one with a bias.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        size: Side of the kernel, odd; the image is padded so that its side stays.
        stride: Pixels from one output to the next.
        rounded: Whether INT8 rounds the result as it leaves, and not where it is read, behind a
            ReLU: for sums, which ONNX Runtime takes in integers only so.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int = 3, stride: int = 1, rounded: bool = False
    ) -> None:
        super().__init__()
        self.inputs, self.size, self.rounded = inputs, size, rounded
        self.stride, self.padding = stride, size // 2
        self.kernel: Any = nn.Linear(inputs * size * size, outputs, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)

    @property
    def weight(self) -> Tensor:
        """The kernel, adapters included: [out, in, size, size]."""
        return effective(self.kernel)[0].view(-1, self.inputs, self.size, self.size)

    @property
    def bias(self) -> Tensor:
        """The bias [out]; zero where a batch norm follows."""
        return effective(self.kernel)[1]

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x [B, in, H, W] to [B, out, H / stride, W / stride]."""
        out = F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        return torch.as_tensor(self.norm(out))

    @torch.no_grad()
    def fold(self) -> None:
        """Make the batch norm part of kernel and bias, in place; the result is the same."""
        norm = self.norm
        if isinstance(norm, nn.BatchNorm2d):
            self.kernel = fuse_linear_bn_eval(self.kernel.eval(), norm.eval())
            self.norm = nn.Identity()

    @torch.no_grad()
    def plain(self) -> nn.Conv2d:
        """Return torch's own convolution that does the same; batch norms have to be folded."""
        size, stride, padding = self.size, self.stride, self.padding
        same = nn.Conv2d(self.inputs, len(self.bias), size, stride, padding)
        same.weight = nn.Parameter(self.weight.clone(), requires_grad=False)
        same.bias = nn.Parameter(self.bias.clone(), requires_grad=False)
        return same


def fold_norms(network: nn.Module) -> None:
    """Fold all batch norms of a network into its convolutions, in place."""
    for module in list(network.modules()):
        if isinstance(module, Convolution):
            module.fold()


def read_as(reader: Any, x: Tensor) -> Tensor:
    """Round x as the convolution does that reads it too; in float, leave it."""
    return torch.as_tensor(reader.input.repeat(x)) if hasattr(reader, "weight_scale") else x


class Residual(nn.Module):
    """Two 3 x 3 convolutions, and the features themselves around them.

    Args:
        channels: That come in and go out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Convolution(channels, channels)
        self.conv2 = Convolution(channels, channels, rounded=True)
        # The block begins as the identity.
        nn.init.zeros_(self.conv2.norm.weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the shape of x [B, C, H, W], none below 0."""
        return F.relu(read_as(self.conv1, x) + self.conv2(F.relu(self.conv1(x))))


class Stage(nn.Module):
    """Half the side, then residual blocks.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        blocks: Number of residual blocks.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        self.down = Convolution(inputs, outputs, stride=2)
        self.blocks = nn.Sequential(*(Residual(outputs) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """Turn x [B, in, H, W] into [B, out, H / 2, W / 2]."""
        return torch.as_tensor(self.blocks(F.relu(self.down(x))))


@dataclass(frozen=True)
class Features:
    """What the encoder makes of an image of side S.

    Attributes:
        quarter: [B, C4, S / 4, S / 4], none below 0.
        eighth: [B, C8, S / 8, S / 8], none below 0.
        embedding: [B, D, S / 16, S / 16].
    """

    quarter: Tensor
    eighth: Tensor
    embedding: Tensor


class ConvEncoder(nn.Module):
    """Stem, three stages and a neck.

    Args:
        channels: Of the stem and of the stages at 1/4, 1/8 and 1/16 of the side.
        blocks: Residual blocks of each stage.
        width: Channels of the embedding.
    """

    def __init__(
        self, channels: tuple[int, int, int, int], blocks: tuple[int, int, int], width: int
    ) -> None:
        super().__init__()
        stem, quarter, eighth, sixteenth = channels
        self.stem = Convolution(1, stem, stride=2)
        self.stage4 = Stage(stem, quarter, blocks[0])
        self.stage8 = Stage(quarter, eighth, blocks[1])
        self.stage16 = Stage(eighth, sixteenth, blocks[2])
        self.neck = Convolution(sixteenth, width, rounded=True)

    def forward(self, image: Tensor) -> Features:
        """Embed float32 images [B, 1, S, S] in [0, 1]."""
        quarter = self.stage4(F.relu(self.stem(image - 0.5)))
        eighth = self.stage8(quarter)
        embedding = self.neck(self.stage16(eighth))
        # The stages go on with them, so the rounding of both ways is one.
        quarter, eighth = read_as(self.stage8.down, quarter), read_as(self.stage16.down, eighth)
        return Features(quarter, eighth, embedding)
