"""The U-Net that is shipped: batch norms folded, and, in INT8, every convolution in integers.

ONNX Runtime sums, concatenates and convolves in integers where all operands are rounded, so each
convolution, each residual sum and each skip connection rounds what comes in. A transposed
convolution has no integer kernel; it becomes the convolution to four phases that it is (Shi et al.
2016, sub-pixel convolution), whose results are interleaved.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cxrseg.trainer.adapt.layer_table import Layer
from cxrseg.trainer.adapt.quantization import calibrate
from cxrseg.trainer.adapt.quantizers import (
    ActivationQuantizer,
    QuantizedConv2d,
)
from cxrseg.trainer.adapt.settings import QuantizationConfig
from cxrseg.trainer.networks.unet import UNet

TAPS: dict[int, list[tuple[int, int]]] = {0: [(0, 1)], 1: [(0, 2), (1, 0)]}
"""Phase along an axis -> places in its kernel, and the places of the transposed kernel there."""


class PhaseConv2d(QuantizedConv2d):
    """A transposed convolution of kernel 3 and stride 2, and its ReLU, in integers.

    Pixel (2 y + a, 2 x + b) of the result is phase 2 a + b at (y, x), a sum over the inputs at
    rows y to y + a and columns x to x + b.
    """

    def __init__(self, layer: nn.ConvTranspose2d, config: QuantizationConfig) -> None:
        super().__init__(as_phases(layer), config)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x [B, in, H, W] to [B, out, 2 H, 2 W]."""
        height, width = x.shape[-2:]
        layer = self.layer
        out = F.conv2d(self.input(x), self.rounded(layer.weight), layer.bias, padding=1)
        phases = self.output(torch.relu(out)[:, :, 1:, 1:])
        # Channels last, as ONNX Runtime's kernel has them: whole rows of channels are moved.
        channels = phases.shape[1] // 4
        rows = phases.permute(0, 2, 3, 1).reshape(-1, height, width, 2, 2 * channels)
        pixels = rows.transpose(2, 3).reshape(-1, 2 * height, 2 * width, channels)
        return torch.as_tensor(pixels.permute(0, 3, 1, 2))


@torch.no_grad()
def as_phases(layer: nn.ConvTranspose2d) -> nn.Conv2d:
    """Return a convolution [4 * out, in, 2, 2] to the four phases, one after the other.

    It is padded on both sides, since a Pad on one would part the rounding of the input from the
    convolution; so the first row and column of its result are of no use.
    """
    weight = layer.weight.transpose(0, 1)  # [out, in, 3, 3]
    kernel = weight.new_zeros(4, *weight.shape[:2], 2, 2)
    for a, rows in TAPS.items():
        for b, columns in TAPS.items():
            for row, from_row in rows:
                for column, from_column in columns:
                    kernel[2 * a + b, :, :, row, column] = weight[:, :, from_row, from_column]
    phases = nn.Conv2d(layer.in_channels, 4 * layer.out_channels, 2, padding=1)
    phases.weight = nn.Parameter(kernel.flatten(0, 1), requires_grad=False)
    if layer.bias is not None:
        phases.bias = nn.Parameter(layer.bias.repeat(4), requires_grad=False)
    return phases


class RoundedSum(nn.Module):
    """A residual unit that sums rounded operands.

    Args:
        unit: MONAI's unit.
        momentum: As `ActivationQuantizer` takes it.
    """

    def __init__(self, unit: Any, momentum: float) -> None:
        super().__init__()
        self.conv, self.residual = unit.conv, unit.residual
        self.first, self.second = ActivationQuantizer(momentum), ActivationQuantizer(momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of what both ways give for x."""
        return torch.as_tensor(self.first(self.conv(x)) + self.second(self.residual(x)))


class RoundedConcat(nn.Module):
    """A skip connection that concatenates rounded operands.

    Args:
        skip: MONAI's connection.
        momentum: As `ActivationQuantizer` takes it.
    """

    def __init__(self, skip: Any, momentum: float) -> None:
        super().__init__()
        self.submodule = skip.submodule
        self.first, self.second = ActivationQuantizer(momentum), ActivationQuantizer(momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Return the channels of x, then what the submodule gives for them."""
        return torch.cat([self.first(x), self.second(self.submodule(x))], dim=1)


def folded(model: UNet) -> UNet:
    """Return a copy whose batch norms are folded into the convolutions before them."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for unit in model.modules():
        end: Any = getattr(unit, "adn", None)  # norm, dropout and activation
        if isinstance(getattr(end, "N", None), nn.BatchNorm2d):
            convolution: Any = unit.conv
            transposed = isinstance(convolution, nn.ConvTranspose2d)
            unit.conv = fuse_conv_bn_eval(convolution, end.N, transpose=transposed)
            end.N = nn.Identity()
    return model


def quantized(
    model: UNet, layers: Sequence[Layer], config: QuantizationConfig, batches: Iterable[Tensor]
) -> UNet:
    """Return a copy in INT8, calibrated after training.

    Args:
        model: A trained network in float.
        layers: Those that become INT8; the others stay in float.
        config: How to quantize.
        batches: Images [B, 1, S, S] in [0, 1] to set the activation ranges from.
    """
    model = folded(model)
    for layer in layers:
        convolution: Any = model.get_submodule(layer.name)
        transposed = isinstance(convolution, nn.ConvTranspose2d)
        integer = (PhaseConv2d if transposed else QuantizedConv2d)(convolution, config)
        if not transposed:
            integer.output = nn.Identity()  # type: ignore[assignment]  # rounded where it is used
        model.set_submodule(layer.name, integer)
    for name, module in list(model.named_modules()):
        if hasattr(module, "residual"):
            model.set_submodule(name, RoundedSum(module, config.momentum))
        elif hasattr(module, "submodule"):
            model.set_submodule(name, RoundedConcat(module, config.momentum))
    model.eval().requires_grad_(False)
    calibrate(model, batches)
    return model
