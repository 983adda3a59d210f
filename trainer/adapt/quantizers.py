"""Fake quantizers, whose arithmetic the exported file repeats exactly.

Activations are uint8, per tensor, asymmetric, with ranges tracked as a moving average. Weights
are int8, per output channel, symmetric, within +-63 by default: integer kernels of CPUs without
VNNI add pairs of products in 16 bits, which weights beyond 7 bits saturate silently. Keys and
values are activations, but the second operands of their products, and so are int8 as weights are:
the fast kernels (VNNI, AMX) take uint8 times int8 alone. Attention that spreads over hundreds of
keys has no probability that reaches half a step of 1/255: `row_scales` measures each row by its
largest, as per-token scales do (Dettmers et al. 2022, LLM.int8(), section 2.1).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxrseg.trainer.adapt.settings import QuantizationConfig
from cxrseg.trainer.networks.convolutions import Convolution
from cxrseg.trainer.networks.layers import effective

Mode = Literal["bypass", "observe", "quantize"]

LEVELS = 255
"""Steps of a uint8 activation."""


def weight_limit(bits: int) -> int:
    """Return the largest integer weight: 63 for 7 bits, 127 for 8."""
    return int(2 ** (bits - 1) - 1)


class ActivationQuantizer(nn.Module):
    """Per-tensor uint8 fake quantizer with a tracked range.

    Args:
        momentum: Weight of a new batch in the moving average of minimum and maximum.
    """

    lowest, highest = 0, LEVELS
    low: Tensor
    high: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.mode: Mode = "bypass"
        self.frozen = False
        self.observed = 0
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Update range, scale and zero point from x.

        In mode ``observe`` the range is the mean over the batches; later it is a moving average.
        """
        low, high = self.range_of(x.detach())
        if self.mode == "observe":
            self.observed += 1
            weight = 1 / self.observed
        else:
            weight = self.momentum
        self.low.lerp_(low, weight)
        self.high.lerp_(high, weight)
        self.fit_scale()

    def range_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the range that x asks for; it holds zero."""
        low, high = torch.aminmax(x)
        return low.float().clamp(max=0), high.float().clamp(min=0)

    @torch.no_grad()
    def fit_scale(self) -> None:
        """Set scale and zero point to the range."""
        self.scale.copy_(((self.high - self.low) / LEVELS).clamp(min=1e-8))
        self.zero_point.copy_((-self.low / self.scale).round().clamp(0, LEVELS).int())

    def forward(self, x: Tensor) -> Tensor:
        """Return x, quantized and dequantized in mode ``quantize``."""
        if self.mode == "bypass":
            return x
        if self.mode == "observe" or (self.training and not self.frozen):
            self.observe(x)
        return self.repeat(self.clip(x))

    def clip(self, x: Tensor) -> Tensor:
        """Return x as its integers can hold it; here saturation does it."""
        return x

    def repeat(self, x: Tensor) -> Tensor:
        """Quantize what is within the range like `forward`, but let the range be."""
        if self.mode != "quantize":
            return x
        return torch.fake_quantize_per_tensor_affine(
            x, self.scale, self.zero_point, self.lowest, self.highest
        )


class OperandQuantizer(ActivationQuantizer):
    """Per-tensor int8 fake quantizer with a tracked range about zero, for second operands.

    What exceeds the range is clipped to it, so that no integer exceeds the limit of the weights.

    Args:
        momentum: As in `ActivationQuantizer`.
        limit: Largest integer.
        holds: A number >= 0 that the range always holds.
    """

    lowest, highest = -128, 127

    def __init__(self, momentum: float, limit: int, holds: float = 0.0) -> None:
        super().__init__(momentum)
        self.limit = limit
        self.holds = holds

    def range_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the range that x asks for; it is as wide on both sides of zero."""
        high = x.abs().amax().float().clamp(min=self.holds)
        return -high, high

    @torch.no_grad()
    def fit_scale(self) -> None:
        """Set the scale to the range; the zero point is 0."""
        self.scale.copy_((self.high / self.limit).clamp(min=1e-8))

    def clip(self, x: Tensor) -> Tensor:
        """Return x within the range."""
        return torch.clamp(x, self.low, self.high) if self.mode == "quantize" else x


class RowQuantizer(ActivationQuantizer):
    """Uint8 fake quantizer of probabilities, each row with a scale of its own.

    Args:
        momentum: Of no effect: what is rounded always ranges from 0 to 1.
    """

    def __init__(self, momentum: float) -> None:
        super().__init__(momentum)
        self.high.fill_(1)
        self.fit_scale()

    def observe(self, x: Tensor) -> None:
        """Keep the range."""

    def mix(self, weights: Tensor, values: Tensor) -> Tensor:
        """Return the values' means, weighted by probabilities.

        Args:
            weights: [N, T, T] in [0, 1], no row without a positive one.
            values: [N, T, D], quantized.

        Returns:
            [N, T, D].
        """
        if self.mode == "bypass":
            return weights @ values
        peak = weights.detach().amax(dim=-1, keepdim=True)
        return torch.as_tensor(self(weights / peak) @ values) * peak


class QuantizedWeight(nn.Module):
    """A layer whose weight is rounded to int8 per output channel.

    Args:
        layer: The layer in float; stays a submodule, adapters and all.
        config: How to quantize.
    """

    weight_scale: Tensor
    weight_zero_point: Tensor

    def __init__(self, layer: nn.Module, config: QuantizationConfig) -> None:
        super().__init__()
        self.layer: Any = layer
        self.limit = weight_limit(config.weight_bits)
        self.mode: Mode = "bypass"
        self.input = ActivationQuantizer(config.momentum)
        channels = self.raw_weight().shape[0]
        self.register_buffer("weight_scale", torch.ones(channels))
        zero_point = torch.zeros(channels, dtype=torch.int32)
        self.register_buffer("weight_zero_point", zero_point, persistent=False)

    def raw_weight(self) -> Tensor:
        """Return the weight in float, output channels first."""
        raise TypeError(f"{type(self).__name__} does not say what its weight is")

    @torch.no_grad()
    def update_scale(self, weight: Tensor) -> None:
        """Set the scale so that the largest weight of each channel is +-limit."""
        scale = weight.detach().flatten(1).abs().amax(dim=1) / self.limit
        # A dead channel gets no tiny scale of its own: its bias would overflow int32.
        floor = max(1e-4 * float(scale.max()), 1e-8)
        self.weight_scale.copy_(scale.clamp(min=floor))

    def train(self, mode: bool = True) -> QuantizedWeight:
        """Switch between training and evaluation, where scales fit the weights as they are."""
        super().train(mode)
        if not mode:
            self.update_scale(self.raw_weight())
        return self

    def rounded(self, weight: Tensor) -> Tensor:
        """Return the weight as the mode wants it."""
        if self.mode != "quantize":
            return weight
        if self.training:
            self.update_scale(weight)
        return torch.fake_quantize_per_channel_affine(
            weight, self.weight_scale, self.weight_zero_point, 0, -128, 127
        )


class QuantizedLinear(QuantizedWeight):
    """A linear map with uint8 input and int8 weight; output and bias in float."""

    def raw_weight(self) -> Tensor:
        """Return the effective weight [out, in]."""
        return effective(self.layer)[0]

    def effective(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias before rounding."""
        return effective(self.layer)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., in] to [..., out]; tokens are flattened so that one Gemm results."""
        weight, bias = effective(self.layer)
        flat = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
        out = F.linear(self.input(flat), self.rounded(weight), bias)
        return out if x.ndim == 2 else out.reshape(*x.shape[:-1], -1)


class QuantizedConv2d(QuantizedWeight):
    """A convolution with uint8 input and output and int8 weight.

    The output is quantized as well because ONNX Runtime has no integer convolution with a float
    result; where a ReLU follows, the layer says that whoever reads it does that.
    """

    def __init__(self, layer: nn.Conv2d | Convolution, config: QuantizationConfig) -> None:
        super().__init__(layer, config)
        rounded = getattr(layer, "rounded", True)
        self.output = ActivationQuantizer(config.momentum) if rounded else nn.Identity()

    def raw_weight(self) -> Tensor:
        """Return the kernel [out, in, kH, kW]."""
        return torch.as_tensor(self.layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x [B, in, H, W]."""
        layer = self.layer
        weight = self.rounded(layer.weight)
        out = F.conv2d(self.input(x), weight, layer.bias, layer.stride, layer.padding)
        return torch.as_tensor(self.output(out))
