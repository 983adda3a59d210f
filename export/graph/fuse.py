"""From the trained network to the one that is shipped: merged, constants computed and rounded."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cxrseg.export.graph.passes import SMALL
from cxrseg.export.graph.unet import folded
from cxrseg.trainer.adapt.layer_table import Layer
from cxrseg.trainer.adapt.quantization import quantizers, unquantize
from cxrseg.trainer.adapt.quantizers import (
    ActivationQuantizer,
    QuantizedLinear,
    QuantizedWeight,
)
from cxrseg.trainer.adapt.settings import QuantizationConfig
from cxrseg.trainer.networks.build import AnySAM, Network
from cxrseg.trainer.networks.convolutions import Convolution
from cxrseg.trainer.networks.decoder import Prompt, decode, embed_prompt
from cxrseg.trainer.networks.edge import EdgeSAM
from cxrseg.trainer.networks.encoder import encode
from cxrseg.trainer.networks.layers import Projections, effective
from cxrseg.trainer.networks.lungsam import LungSAM
from cxrseg.trainer.networks.unet import UNet


class PromptFree(nn.Module):
    """A network whose prompt is a constant.

    Args:
        prompt: The prompt.
    """

    tokens: Tensor
    queries: Tensor
    dense: Tensor
    positions: Tensor

    def __init__(self, prompt: Prompt) -> None:
        super().__init__()
        self.register_buffer("tokens", prompt.tokens.contiguous())
        self.register_buffer("queries", prompt.queries.contiguous())
        self.register_buffer("dense", prompt.dense)
        self.register_buffer("positions", prompt.positions.contiguous())

    @property
    def prompt(self) -> Prompt:
        """The prompt, wherever the network lies."""
        return Prompt(self.tokens, self.queries, self.dense, self.positions)


class Shipped(PromptFree):
    """The prompt-free network with every layer plain and everything constant computed.

    Args:
        model: A trained network; is not changed.
        layers: Its table.
    """

    def __init__(self, model: LungSAM, layers: Sequence[Layer]) -> None:
        model = copy.deepcopy(model).eval().requires_grad_(False)
        with torch.no_grad():
            super().__init__(embed_prompt(model.prompt_encoder, model.mask_decoder))
        self.channels = len(model.labels)
        self.image_size = model.image_size
        make_plain(model, layers)
        split_projections(model)
        self.image_encoder = model.image_encoder
        self.mask_decoder = model.mask_decoder
        if any(quantizers(model)):
            round_stored(self)

    def forward(self, image: Tensor) -> Tensor:
        """Segment float32 [B, 1, S, S]; equal to `LungSAM.forward` with no box."""
        embedding = encode(self.image_encoder, image)
        return decode(self.mask_decoder, embedding, self.prompt, self.channels)


class ShippedEdge(PromptFree):
    """The prompt-free edge SAM with every layer plain and everything constant computed.

    Args:
        model: A trained network; is not changed.
        layers: Its table.
    """

    def __init__(self, model: EdgeSAM, layers: Sequence[Layer]) -> None:
        model = copy.deepcopy(model).eval().requires_grad_(False)
        model.fold()
        with torch.no_grad():
            super().__init__(model.no_prompt())
        make_plain(model, layers)
        self.image_encoder = model.image_encoder
        self.mask_decoder = model.mask_decoder
        if any(quantizers(model)):
            round_stored(self)

    def forward(self, image: Tensor) -> Tensor:
        """Segment float32 [B, 1, S, S]; equal to `EdgeSAM.forward`."""
        masks, _ = self.mask_decoder(self.image_encoder(image), self.prompt)
        return torch.as_tensor(masks)


@torch.no_grad()
def make_plain(model: AnySAM, layers: Sequence[Layer]) -> None:
    """Replace every layer that is a linear map by a Linear of its effective weight, in place.

    Kernels that are kept as matrices become convolutions of torch's own kind.

    Merges adapters, q, k and v, and the gray patch embedding; turns 1 x 1 and transposed
    convolutions into the Linears that they are. Layers keep their names and quantizers.

    Args:
        model: The network.
        layers: Its table, or that of the network that it is a copy of.
    """
    for row in layers:
        if row.kind == "attention":  # a product of two inputs has no weight
            continue
        module = model.get_submodule(row.name)
        holder: Any = module if isinstance(module, QuantizedWeight) else None
        layer: Any = module if holder is None else holder.layer
        if row.kind != "linear" and not isinstance(layer, Convolution):
            continue
        plain: Any = layer.plain() if isinstance(layer, Convolution) else _linear(layer)
        if holder is None:
            model.set_submodule(row.name, plain)
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


def _linear(layer: nn.Module) -> nn.Linear:
    return _plain(*effective(layer))


def _plain(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight = nn.Parameter(weight.clone(), requires_grad=False)
    linear.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return linear


def fused(model: Network, layers: Sequence[Layer], integer: bool) -> nn.Module:
    """Return the network that is shipped.

    Args:
        model: A trained network; is not changed.
        layers: Its table.
        integer: Whether its quantizers stay.
    """
    if isinstance(model, UNet):
        return rounded_unet(model) if integer else folded(model)
    if not integer:
        model = copy.deepcopy(model)
        unquantize(model)
    return Shipped(model, layers) if isinstance(model, LungSAM) else ShippedEdge(model, layers)


@torch.no_grad()
def rounded_unet(model: UNet) -> UNet:
    """Return a copy of a U-Net in INT8, its biases and what stays in float as they are stored."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, QuantizedWeight):
            bias = module.layer.bias
            bias.copy_(integer_bias(module, bias))
    round_stored(model)
    return model
