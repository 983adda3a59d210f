"""Layers that are linear maps at heart, and the one function that applies them.

Training, quantization and export see a layer only through its effective weight: the matrix that
the merged, folded network multiplies with. So what is trained is what is shipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxrseg.trainer.networks.sam import PIXEL_MEAN, PIXEL_STD


class GrayPatchEmbed(nn.Module):
    """SAM's patch embedding for one gray channel in [0, 1].

    SAM normalizes RGB on a 0..255 scale and convolves. For three equal channels x that is linear:
    W' = sum_c W_c * 255 / std_c and b' = b - sum_c W_c * mean_c / std_c. The convolution keeps
    its own weights, so that Meta's checkpoints load.

    Args:
        proj: SAM's convolution [C, 3, 16, 16], stride 16.
    """

    def __init__(self, proj: nn.Conv2d) -> None:
        super().__init__()
        self.proj = proj

    def effective(self) -> tuple[Tensor, Tensor]:
        """Return the folded weight [C, 256] and bias [C]."""
        weight = self.proj.weight
        mean = weight.new_tensor(PIXEL_MEAN).reshape(1, -1, 1, 1)
        std = weight.new_tensor(PIXEL_STD).reshape(1, -1, 1, 1)
        folded = (weight * (255 / std)).sum(dim=1).flatten(1)
        shift = (weight * (mean / std)).flatten(1).sum(dim=1)
        bias = self.proj.bias
        return folded, (-shift if bias is None else bias - shift)


class SplitLinear(nn.Module):
    """A fused qkv Linear as three, so that each gets an adapter of its own.

    Args:
        fused: Linear whose outputs are q, k and v, each a third.
    """

    def __init__(self, fused: nn.Linear) -> None:
        super().__init__()
        for name, weight, bias in zip(
            "qkv", fused.weight.detach().chunk(3), fused.bias.detach().chunk(3), strict=True
        ):
            part = nn.Linear(fused.in_features, fused.out_features // 3)
            part.weight = nn.Parameter(weight.clone())
            part.bias = nn.Parameter(bias.clone())
            setattr(self, name, part)

    def effective(self) -> tuple[Tensor, Tensor]:
        """Return the fused weight [3 * C, C] and bias [3 * C], adapters included."""
        weights, biases = zip(*(effective(getattr(self, name)) for name in "qkv"), strict=True)
        return torch.cat(weights), torch.cat(biases)


class Projections(nn.Module):
    """q, k and v as three layers on one input, so that no output has to be split.

    Args:
        input: What the input goes through first: a quantizer, or nothing.
        parts: The layers for q, k and v.
    """

    def __init__(self, input: nn.Module, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.input = input
        self.q, self.k, self.v = parts

    def parts(self) -> list[Any]:
        """Return the layers for q, k and v."""
        return [self.q, self.k, self.v]


def project(layer: Any, x: Tensor) -> list[Tensor]:
    """Return q, k and v [N, C] of tokens x [N, C]."""
    if isinstance(layer, Projections):
        x = layer.input(x)
        return [apply_linear(part, x) for part in layer.parts()]
    return list(apply_linear(layer, x).chunk(3, dim=-1))


def project_biases(layer: Any) -> list[Tensor]:
    """Return the biases [C] of q, k and v."""
    if isinstance(layer, Projections):
        return [effective(part)[1] for part in layer.parts()]
    return list(effective(layer)[1].chunk(3))


def effective(layer: Any) -> tuple[Tensor, Tensor]:
    """Return weight [out, in] and bias [out] of a layer as one Linear.

    Handles Linear, peft's AdaLoRA layer (adapters merged), 1 x 1 convolutions, transposed
    convolutions whose kernel equals their stride (outputs ordered kernel row, kernel column,
    channel), the classes above, and quantized layers, before rounding.

    Raises:
        TypeError: The layer is no such map.
    """
    if isinstance(layer, GrayPatchEmbed | SplitLinear) or hasattr(layer, "weight_scale"):
        return cast(tuple[Tensor, Tensor], layer.effective())
    if hasattr(layer, "get_delta_weight"):
        base = layer.get_base_layer()
        merged, base_bias = effective(base)
        for adapter in layer.active_adapters:
            merged = merged + layer.get_delta_weight(adapter)
        return merged, base_bias
    bias: Tensor | None
    if isinstance(layer, nn.Linear):
        weight, bias = layer.weight, layer.bias
    elif isinstance(layer, nn.ConvTranspose2d) and layer.kernel_size == layer.stride:
        rows, columns = layer.kernel_size
        weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2)
        bias = None if layer.bias is None else layer.bias.repeat(rows * columns)
    elif isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
        weight, bias = layer.weight.flatten(1), layer.bias
    else:
        raise TypeError(f"{type(layer).__name__} is not a linear map of its input")
    return weight, weight.new_zeros(weight.shape[0]) if bias is None else bias


def apply_linear(layer: Any, x: Tensor) -> Tensor:
    """Apply a layer's effective weight to x [N, in]; quantized layers bring their own forward."""
    if hasattr(layer, "weight_scale"):
        return torch.as_tensor(layer(x))
    return F.linear(x, *effective(layer))
