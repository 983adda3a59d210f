"""Which layers stay in floating point, and why."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cxrseg.trainer.adapt.quantization import (
    QuantizationConfig,
    QuantizedWeight,
    calibrate,
    quantize,
    set_mode,
)
from cxrseg.trainer.adapt.sensitivity import CAP_DB, keep_float, measure, sensitive, sqnr, units
from cxrseg.trainer.networks.lungsam import LungSAM

MakeNano = Callable[..., LungSAM]


def items(images: Tensor) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    mask = (torch.rand(len(images), 3, 64, 64, generator=generator) > 0.5).float()
    return [
        {"image": image, "mask": each, "protocol": torch.tensor(0)}
        for image, each in zip(images, mask, strict=True)
    ]


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
    table = measure(model, items(images))
    assert list(table) == list(units(model))
    assert "image_encoder.blocks.0.attn.matmul" in table
    assert all(0 < each.sqnr <= CAP_DB for each in table.values())
    assert torch.equal(model(images), before), "the model is left as it was"


@torch.no_grad()
def test_a_spoiled_layer_is_found(model: LungSAM, images: Tensor) -> None:
    name = "image_encoder.blocks.1.mlp.lin2"
    layer = model.get_submodule(name)
    assert isinstance(layer, QuantizedWeight)
    layer.input.scale.mul_(100)
    table = measure(model, items(images))
    assert min(table, key=lambda unit: table[unit].sqnr) == name
    level = sorted(each.sqnr for each in table.values())[:2]
    assert sensitive(table, QuantizationConfig(min_sqnr=sum(level) / 2, max_dice_loss=1)) == [name]


def test_limits_on_dice(model: LungSAM, images: Tensor) -> None:
    table = measure(model, items(images))
    strict = QuantizationConfig(min_sqnr=-1000, max_dice_loss=1e-9)
    expected = [name for name, each in table.items() if each.dice_loss > 1e-9]
    assert sensitive(table, strict) == expected


@torch.no_grad()
def test_kept_units_compute_in_float(model: LungSAM, nano: MakeNano, images: Tensor) -> None:
    keep_float(model, list(units(model)))
    assert not units(model)
    set_mode(model, "quantize")
    torch.testing.assert_close(model(images), nano()(images))
