"""From the trained network to the one that is shipped: adapters merged, constants computed."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from cxrseg.trainer.forward import decode, encode, whole_image_box
from cxrseg.trainer.layers import effective
from cxrseg.trainer.lungsam import LungSAM
from cxrseg.trainer.quantization import QuantizedConv2d, QuantizedWeight, quantizable, unquantize


class Shipped(nn.Module):
    """The prompt-free network with every layer plain and everything constant computed.

    Args:
        model: A trained network; is not changed.
    """

    prompt: Tensor
    dense: Tensor
    positions: Tensor

    def __init__(self, model: LungSAM) -> None:
        super().__init__()
        model = copy.deepcopy(model).eval().requires_grad_(False)
        with torch.no_grad():
            prompt = whole_image_box(model.prompt_encoder)
            positions = model.prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2)
        self.register_buffer("prompt", prompt.contiguous())
        self.register_buffer("dense", model.prompt_encoder.no_mask_embed.weight.reshape(-1))
        self.register_buffer("positions", positions.contiguous())
        self.channels = len(model.labels)
        self.image_size = model.image_size
        make_plain(model)
        self.image_encoder = model.image_encoder
        self.mask_decoder = model.mask_decoder

    def forward(self, image: Tensor) -> Tensor:
        """Segment float32 [B, 1, S, S]; equal to `LungSAM.forward` with no box."""
        embedding = encode(self.image_encoder, image)
        return decode(
            self.mask_decoder, embedding, self.prompt, self.dense, self.positions, self.channels
        )


@torch.no_grad()
def make_plain(model: LungSAM) -> None:
    """Replace every layer that is a linear map by a Linear of its effective weight, in place.

    Merges adapters, q, k and v, and the gray patch embedding; turns 1 x 1 and transposed
    convolutions into the Linears that they are. Layers keep their names and quantizers.
    """
    for name, layer in quantizable(model).items():
        holder: Any = layer if isinstance(layer, QuantizedWeight) else None
        inner = layer if holder is None else holder.layer
        if isinstance(layer, QuantizedConv2d) or _is_spatial(inner):
            continue
        plain = _linear(inner)
        if holder is None:
            model.set_submodule(name, plain)
        else:
            holder.layer = plain


def _is_spatial(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)


def _linear(layer: nn.Module) -> nn.Linear:
    weight, bias = effective(layer)
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight = nn.Parameter(weight.clone(), requires_grad=False)
    linear.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return linear


def float_twin(model: LungSAM) -> Shipped:
    """Return the same network without quantizers, for the FP32 export."""
    twin = copy.deepcopy(model)
    unquantize(twin)
    return Shipped(twin)
