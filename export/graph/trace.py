"""From the trained network to the one that is shipped: merged, constants computed and rounded."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from cxrseg.export.graph.passes import SMALL
from cxrseg.trainer.adapt.quantization import (
    ActivationQuantizer,
    QuantizationConfig,
    QuantizedConv2d,
    QuantizedLinear,
    QuantizedWeight,
    quantizable,
    quantizers,
    unquantize,
)
from cxrseg.trainer.networks.forward import decode, encode, first_queries, whole_image_box
from cxrseg.trainer.networks.layers import Projections, effective
from cxrseg.trainer.networks.lungsam import LungSAM

CONSTANT = "mask_decoder.transformer.layers.0.self_attn."
"""Prefix of the layers that see nothing but the constant prompt and are computed at export."""


class Shipped(nn.Module):
    """The prompt-free network with every layer plain and everything constant computed.

    Args:
        model: A trained network; is not changed.
    """

    tokens: Tensor
    queries: Tensor
    dense: Tensor
    positions: Tensor

    def __init__(self, model: LungSAM) -> None:
        super().__init__()
        model = copy.deepcopy(model).eval().requires_grad_(False)
        with torch.no_grad():
            tokens, queries = first_queries(
                model.mask_decoder, whole_image_box(model.prompt_encoder)
            )
            positions = model.prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2)
        self.register_buffer("tokens", tokens.contiguous())
        self.register_buffer("queries", queries.contiguous())
        self.register_buffer("dense", model.prompt_encoder.no_mask_embed.weight.reshape(-1))
        self.register_buffer("positions", positions.contiguous())
        self.channels = len(model.labels)
        self.image_size = model.image_size
        make_plain(model)
        split_projections(model)
        self.image_encoder = model.image_encoder
        self.mask_decoder = model.mask_decoder
        if any(quantizers(model)):
            round_stored(self)

    def forward(self, image: Tensor) -> Tensor:
        """Segment float32 [B, 1, S, S]; equal to `LungSAM.forward` with no box."""
        embedding = encode(self.image_encoder, image)
        return decode(
            self.mask_decoder,
            embedding,
            self.tokens,
            self.queries,
            self.dense,
            self.positions,
            self.channels,
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
            plain.bias.copy_(integer_bias(holder, plain.bias))
            holder.layer = plain


@torch.no_grad()
def split_projections(model: LungSAM) -> None:
    """Give q, k and v of a plain encoder a Linear each, in place, and fold the attention scale.

    q becomes scale * q in weight and bias, and tables of relative positions, which meet the
    unscaled q, are divided by it.
    """
    for block in model.image_encoder.blocks:
        attention = block.attn
        fused = attention.qkv
        holder = fused if isinstance(fused, QuantizedWeight) else None
        weight, bias = effective(fused)
        factors = (attention.scale, 1.0, 1.0)
        parts: list[nn.Module] = []
        for index, factor in enumerate(factors):
            linear = _plain(factor * weight.chunk(3)[index], factor * bias.chunk(3)[index])
            parts.append(linear if holder is None else _like(holder, linear, index, factor))
        attention.qkv = Projections(nn.Identity() if holder is None else holder.input, parts)
        if attention.use_rel_pos:
            attention.rel_pos_h /= attention.scale
            attention.rel_pos_w /= attention.scale
        attention.scale = 1


def _like(fused: QuantizedWeight, linear: nn.Linear, index: int, factor: float) -> QuantizedLinear:
    part = QuantizedLinear(linear, QuantizationConfig()).eval()
    part.limit, part.mode = fused.limit, fused.mode
    part.weight_scale.copy_(factor * fused.weight_scale.chunk(3)[index])
    part.input = nn.Identity()  # type: ignore[assignment]
    return part.requires_grad_(False)


def integer_bias(layer: QuantizedWeight, bias: Tensor) -> Tensor:
    """Round a bias to steps of input scale times weight scale, as its int32 form has it."""
    step = layer.input.scale.double() * layer.weight_scale.double()
    return ((bias.double() / step).round() * step).to(bias.dtype)


@torch.no_grad()
def round_stored(network: nn.Module) -> None:
    """Round to FP16, in place, all constants that `passes.store_fp16` stores so."""
    integer = (m for m in network.modules() if isinstance(m, ActivationQuantizer | QuantizedWeight))
    exempt = {id(t) for m in integer for t in (*m.parameters(), *m.buffers())}
    for tensor in (*network.parameters(), *network.buffers()):
        if id(tensor) in exempt or not tensor.is_floating_point() or tensor.numel() < SMALL:
            continue
        tensor.copy_(tensor.half().to(tensor.dtype))


def _is_spatial(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)


def _linear(layer: nn.Module) -> nn.Linear:
    return _plain(*effective(layer))


def _plain(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight = nn.Parameter(weight.clone(), requires_grad=False)
    linear.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return linear


def float_twin(model: LungSAM) -> Shipped:
    """Return the same network without quantizers, for the FP32 export."""
    twin = copy.deepcopy(model)
    unquantize(twin)
    return Shipped(twin)
