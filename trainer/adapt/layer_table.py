"""The layers of a network that can run in integers, in one table.

Whoever has to know them (quantization, sensitivity, export, recovery) asks here, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from cxrseg.trainer.adapt.quantizers import ActivationQuantizer, QuantizedWeight
from cxrseg.trainer.networks.build import Network
from cxrseg.trainer.networks.convolutions import Convolution
from cxrseg.trainer.networks.layers import GrayPatchEmbed, SplitLinear, effective
from cxrseg.trainer.networks.lungsam import PROMPT_ONLY, LungSAM

Kind = Literal["linear", "conv", "attention"]

_WITH_WEIGHT = (
    QuantizedWeight,
    Convolution,
    GrayPatchEmbed,
    SplitLinear,
    nn.Linear,
    nn.Conv2d,
    nn.ConvTranspose2d,
)


@dataclass(frozen=True)
class Layer:
    """A layer with an integer form: one with a weight, or the two products of an attention.

    Attributes:
        name: Dotted name in the network; ``<attention>.matmul`` for an attention's products.
        kind: ``linear`` is a matrix product with a weight, which 1 x 1 and transposed convolutions
            are too; ``conv`` is a convolution over pixels, transposed or not; ``attention`` is
            queries times keys and probabilities times values.
        shape: Of the weight, output channels first; empty for ``attention``.
        constant: Whether its result depends on the constant prompt alone, and not on the image.
        module: The layer, inside its `QuantizedWeight` where it is quantized; for ``attention``
            the ModuleDict of the operands' quantizers.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    constant: bool
    module: nn.Module

    @property
    def operands(self) -> dict[str, ActivationQuantizer]:
        """Operand -> its quantizer; empty in floating point.

        Operands are ``input`` (and ``output`` of a ``conv`` that is rounded there), or those of
        an attention: ``query``,
        ``key``, ``probability``, ``value``.
        """
        children = self.module.named_children()
        return {name: m for name, m in children if isinstance(m, ActivationQuantizer)}

    @property
    def quantized(self) -> bool:
        """Whether the layer is quantized now."""
        return bool(self.operands)

    @property
    def scales(self) -> dict[str, Tensor]:
        """Operand -> scale of its integers, and ``weight`` -> float32 [out]; empty in float."""
        scales = {name: quantizer.scale for name, quantizer in self.operands.items()}
        if isinstance(self.module, QuantizedWeight):
            scales["weight"] = self.module.weight_scale
        return scales


def layer_table(model: Network) -> list[Layer]:
    """List the layers that have an integer form, whether they are quantized or not.

    Layers with a weight come first, in the order of the network; the attentions' products follow.
    Parts that no mask depends on are left out.
    """
    unused = {id(m) for part in model.unused_modules() for m in part.modules()}
    table: list[Layer] = []
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if id(module) in unused or name.startswith(("prompt_encoder", *inside)):
            continue
        if isinstance(module, _WITH_WEIGHT) or hasattr(module, "get_delta_weight"):
            table.append(_with_weight(name, module))
            inside = (*inside, f"{name}.")
    blocks = model.image_encoder.blocks if isinstance(model, LungSAM) else ()
    for index, block in enumerate(blocks):
        name = f"image_encoder.blocks.{index}.attn.matmul"
        table.append(Layer(name, "attention", (), False, block.attn.quantizers))
    return table


def _with_weight(name: str, module: nn.Module) -> Layer:
    layer: Any = module.layer if isinstance(module, QuantizedWeight) else module
    kind: Kind
    pixels = isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)
    if isinstance(layer, Convolution) or pixels:
        kind, shape = "conv", tuple(layer.weight.shape)
    elif isinstance(layer, nn.ConvTranspose2d) and layer.kernel_size != layer.stride:
        kind, shape = "conv", tuple(layer.weight.transpose(0, 1).shape)
    else:
        kind, shape = "linear", tuple(effective(layer)[0].shape)
    return Layer(name, kind, shape, name.startswith(PROMPT_ONLY), module)
