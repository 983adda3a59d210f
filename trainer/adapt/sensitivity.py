"""Which layers bear integers: each quantized alone, the rest of the network in float."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from cxrseg.trainer.adapt.layer_table import layer_table
from cxrseg.trainer.adapt.quantization import set_mode
from cxrseg.trainer.adapt.settings import QuantizationConfig
from cxrseg.trainer.networks.build import AnySAM

CAP_DB = 200.0
"""SQNR given for logits that do not change at all, dB."""


class Sensitivity(BaseModel):
    """What the quantization of one layer alone does to the output.

    Attributes:
        sqnr: Signal to quantization noise ratio of the logits, dB.
        dice_loss: Mean Dice in float minus mean Dice with this layer quantized.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sqnr: float
    dice_loss: float


def sqnr(reference: Tensor, noisy: Tensor) -> float:
    """Return 10 log10(sum(reference^2) / sum((noisy - reference)^2)) in dB, at most `CAP_DB`."""
    signal = float(reference.double().square().sum())
    noise = float((noisy - reference).double().square().sum())
    if noise == 0:
        return CAP_DB
    return min(CAP_DB, 10 * math.log10(max(signal, 1e-30) / noise))


@torch.no_grad()
def measure(
    model: AnySAM, images: Tensor, dice: Callable[[Tensor], float]
) -> dict[str, Sensitivity]:
    """Quantize one layer at a time and compare with the float network.

    Args:
        model: A calibrated model; left in mode ``quantize``.
        images: float32 [N, 1, S, S] in [0, 1], at least one.
        dice: Mean Dice of logits [N, C, S / 4, S / 4] of these images.

    Returns:
        Sensitivity of each quantized layer, by name, in the order of the table.
    """
    training = model.training
    model.eval()

    def logits() -> Tensor:
        return torch.cat([model(image[None]) for image in images])

    set_mode(model, "bypass")
    reference = logits()
    best = dice(reference)
    sensitivities = {}
    for layer in layer_table(model):
        if layer.quantized:
            set_mode(layer.module, "quantize")
            noisy = logits()
            set_mode(layer.module, "bypass")
            loss = best - dice(noisy)
            sensitivities[layer.name] = Sensitivity(sqnr=sqnr(reference, noisy), dice_loss=loss)
    set_mode(model, "quantize")
    model.train(training)
    return sensitivities


def sensitive(sensitivities: dict[str, Sensitivity], config: QuantizationConfig) -> list[str]:
    """Return the layers that must stay in floating point under the limits of `config`."""
    return [
        name
        for name, figures in sensitivities.items()
        if figures.sqnr < config.min_sqnr or figures.dice_loss > config.max_dice_loss
    ]
