"""Which layers stay in floating point, and why."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cxrseg.trainer.adapt.layer_table import layer_table
from cxrseg.trainer.adapt.quantization import calibrate, make_float, quantize, set_mode
from cxrseg.trainer.adapt.quantizers import QuantizedWeight
from cxrseg.trainer.adapt.sensitivity import CAP_DB, Sensitivity, measure, sensitive, sqnr
from cxrseg.trainer.adapt.settings import QuantizationConfig
from cxrseg.trainer.fit.losses import union_scores
from cxrseg.trainer.networks.lungsam import LungSAM

MakeNano = Callable[..., LungSAM]


def sensitivities(model: LungSAM, images: Tensor) -> dict[str, Sensitivity]:
    """Measure with the Dice of random masks."""
    generator = torch.Generator().manual_seed(1)
    mask = (torch.rand(len(images), 3, 64, 64, generator=generator) > 0.5).float()
    protocol = torch.zeros(len(images), dtype=torch.int64)

    def dice(logits: Tensor) -> float:
        return float(union_scores(logits, mask, protocol, model.labels)[0].mean())

    return measure(model, images, dice)


def quantized(model: LungSAM) -> list[str]:
    return [layer.name for layer in layer_table(model) if layer.quantized]


@pytest.fixture
def model(nano: MakeNano, images: Tensor) -> LungSAM:
    """Return a calibrated model."""
    model = nano()
    quantize(model, QuantizationConfig())
    calibrate(model, [images])
    return model


def test_sqnr_of_known_noise() -> None:
    signal = torch.full((100,), 10.0)
    assert sqnr(signal, signal + 1) == pytest.approx(20)
    assert sqnr(signal, signal) == CAP_DB


@torch.no_grad()
def test_every_unit_is_measured_alone(model: LungSAM, images: Tensor) -> None:
    before = model(images)
    table = sensitivities(model, images)
    assert list(table) == quantized(model)
    assert "image_encoder.blocks.0.attn.matmul" in table
    assert all(0 < each.sqnr <= CAP_DB for each in table.values())
    assert torch.equal(model(images), before), "the model is left as it was"


@torch.no_grad()
def test_a_spoiled_layer_is_found(model: LungSAM, images: Tensor) -> None:
    name = "image_encoder.blocks.1.mlp.lin2"
    layer = model.get_submodule(name)
    assert isinstance(layer, QuantizedWeight)
    layer.input.scale.mul_(100)
    table = sensitivities(model, images)
    assert min(table, key=lambda unit: table[unit].sqnr) == name
    level = sorted(each.sqnr for each in table.values())[:2]
    assert sensitive(table, QuantizationConfig(min_sqnr=sum(level) / 2, max_dice_loss=1)) == [name]


def test_limits_on_dice(model: LungSAM, images: Tensor) -> None:
    table = sensitivities(model, images)
    strict = QuantizationConfig(min_sqnr=-1000, max_dice_loss=1e-9)
    expected = [name for name, each in table.items() if each.dice_loss > 1e-9]
    assert sensitive(table, strict) == expected


@torch.no_grad()
def test_kept_units_compute_in_float(model: LungSAM, nano: MakeNano, images: Tensor) -> None:
    make_float(model, layer_table(model))
    assert not quantized(model)
    set_mode(model, "quantize")
    torch.testing.assert_close(model(images), nano()(images))
