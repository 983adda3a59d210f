"""Quantizers put into a network, calibrated, switched, and taken out again.

The quantizer of a Linear sees its effective weight, adapters merged, so the network learns to
bear the very rounding that it will be shipped with. LayerNorm, softmax, GELU and residual sums
stay in float.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from cxrseg.trainer.adapt.layer_table import Layer, layer_table
from cxrseg.trainer.adapt.quantizers import (
    ActivationQuantizer,
    Mode,
    OperandQuantizer,
    QuantizedConv2d,
    QuantizedLinear,
    QuantizedWeight,
    RowQuantizer,
    weight_limit,
)
from cxrseg.trainer.adapt.settings import QuantizationConfig
from cxrseg.trainer.networks.build import AnySAM


def quantize(model: AnySAM, config: QuantizationConfig) -> None:
    """Put fake quantizers into a float model, in place, in mode ``bypass``.

    Layers with a weight are replaced by `QuantizedLinear` or `QuantizedConv2d`; the attention
    products of the encoder get a quantizer for each operand. A layer keeps float where its name in
    the table matches a pattern of `config`.
    """
    for layer in layer_table(model):
        if any(fnmatchcase(layer.name, pattern) for pattern in config.keep_float):
            continue
        if isinstance(layer.module, nn.ModuleDict):
            layer.module.update(attention_quantizers(config))
            continue
        wrapper: type[QuantizedWeight] = (
            QuantizedConv2d if layer.kind == "conv" else QuantizedLinear
        )
        quantized = wrapper(layer.module, config)
        quantized.train(layer.module.training)
        model.set_submodule(layer.name, quantized)


def attention_quantizers(config: QuantizationConfig) -> dict[str, nn.Module]:
    """Return operand of an attention's products -> its quantizer."""
    limit = weight_limit(config.weight_bits)
    probability = RowQuantizer if config.row_scales else ActivationQuantizer
    return {
        "query": ActivationQuantizer(config.momentum),
        # One-hot rows share the range of the keys.
        "key": OperandQuantizer(config.momentum, limit, holds=1.0),
        "probability": probability(config.momentum),
        "value": OperandQuantizer(config.momentum, limit),
    }


def make_float(model: nn.Module, layers: Sequence[Layer]) -> None:
    """Take the quantizers of some layers out of a model, in place.

    Args:
        model: The network.
        layers: Rows of its table.
    """
    for layer in layers:
        if isinstance(layer.module, QuantizedWeight):
            model.set_submodule(layer.name, layer.module.layer)
        elif isinstance(layer.module, nn.ModuleDict):
            layer.module.update({name: nn.Identity() for name in layer.operands})


def unquantize(model: AnySAM) -> None:
    """Take all fake quantizers out of a model, in place."""
    make_float(model, layer_table(model))


def quantizers(model: nn.Module) -> Iterator[ActivationQuantizer | QuantizedWeight]:
    """Yield everything in a model that has a quantization mode."""
    for module in model.modules():
        if isinstance(module, ActivationQuantizer | QuantizedWeight):
            yield module


def set_mode(model: nn.Module, mode: Mode) -> None:
    """Switch all quantizers of a model."""
    for module in quantizers(model):
        module.mode = mode


def set_weight_bits(model: nn.Module, bits: int) -> None:
    """Round weights, keys and values to another number of bits, 7 or 8, with scales to match."""
    for module in quantizers(model):
        if isinstance(module, QuantizedWeight):
            module.limit = weight_limit(bits)
            module.update_scale(module.raw_weight())
        elif isinstance(module, OperandQuantizer):
            module.limit = weight_limit(bits)
            module.fit_scale()


def freeze_observers(model: nn.Module, frozen: bool) -> None:
    """Hold the activation ranges in training, or let them follow the data."""
    for module in quantizers(model):
        if isinstance(module, ActivationQuantizer):
            module.frozen = frozen


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set activation ranges from data and weight scales from the weights, then quantize.

    Args:
        model: A model after `quantize`.
        batches: Images [B, 1, S, S] in [0, 1]; a few dozen images are enough.
    """
    training = model.training
    model.eval()
    set_mode(model, "observe")
    for module in quantizers(model):
        if isinstance(module, ActivationQuantizer):
            module.observed = 0
    for batch in batches:
        model(batch)
    for module in quantizers(model):
        if isinstance(module, QuantizedWeight):
            module.update_scale(module.raw_weight())
    set_mode(model, "quantize")
    model.train(training)
