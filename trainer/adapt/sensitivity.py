"""Which layers bear integers: each quantized alone, the rest of the network in float."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from cxrseg.trainer.adapt.quantization import (
    QuantizationConfig,
    QuantizedWeight,
    attention_names,
    quantizable,
    quantizers,
    set_mode,
)
from cxrseg.trainer.fit.losses import union_scores
from cxrseg.trainer.networks.lungsam import ATTENTION_OPERANDS, LungSAM

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


def units(model: LungSAM) -> dict[str, nn.Module]:
    """Return what is quantized or kept as one, by name, in the order of the network.

    These are the layers with weights, and ``<attention>.matmul`` for an attention's products.
    """
    found: dict[str, nn.Module] = {
        n: m for n, m in quantizable(model).items() if isinstance(m, QuantizedWeight)
    }
    for name in attention_names(model):
        attention: Any = model.get_submodule(name)
        if any(quantizers(attention.quantizers)):
            found[f"{name}.matmul"] = attention.quantizers
    return found


def sqnr(reference: Tensor, noisy: Tensor) -> float:
    """Return 10 log10(sum(reference^2) / sum((noisy - reference)^2)) in dB, at most `CAP_DB`."""
    signal = float(reference.double().square().sum())
    noise = float((noisy - reference).double().square().sum())
    if noise == 0:
        return CAP_DB
    return min(CAP_DB, 10 * math.log10(max(signal, 1e-30) / noise))


@torch.no_grad()
def measure(model: LungSAM, items: Sequence[dict[str, Tensor]]) -> dict[str, Sensitivity]:
    """Quantize one unit at a time and compare with the float network.

    Args:
        model: A calibrated model; left in mode ``quantize``.
        items: Items of a `LungDataset` without augmentation, at least one.

    Returns:
        Sensitivity of each unit, by name.
    """
    training = model.training
    model.eval()
    images = torch.stack([item["image"] for item in items])
    mask = torch.stack([item["mask"] for item in items])
    protocol = torch.stack([item["protocol"] for item in items])

    def outcome() -> tuple[Tensor, float]:
        logits = torch.cat([model(image[None]) for image in images])
        dice, _ = union_scores(logits, mask, protocol, model.labels)
        return logits, float(dice.nanmean())

    set_mode(model, "bypass")
    reference, best = outcome()
    found = {}
    for name, unit in units(model).items():
        set_mode(unit, "quantize")
        logits, dice = outcome()
        set_mode(unit, "bypass")
        found[name] = Sensitivity(sqnr=sqnr(reference, logits), dice_loss=best - dice)
    set_mode(model, "quantize")
    model.train(training)
    return found


def sensitive(table: dict[str, Sensitivity], config: QuantizationConfig) -> list[str]:
    """Return the units that must stay in floating point under the limits of `config`."""
    return [
        name
        for name, each in table.items()
        if each.sqnr < config.min_sqnr or each.dice_loss > config.max_dice_loss
    ]


def keep_float(model: LungSAM, names: Sequence[str]) -> None:
    """Take the quantizers of some units out of a model, in place."""
    for name in names:
        unit = units(model)[name]
        if isinstance(unit, QuantizedWeight):
            model.set_submodule(name, unit.layer)
        else:
            attention: Any = model.get_submodule(name.removesuffix(".matmul"))
            for operand in ATTENTION_OPERANDS:
                attention.quantizers[operand] = nn.Identity()
