"""Fake quantization: what it rounds, what it leaves alone, and that it can be taken out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cxrseg.trainer.adapt.adapters import adapted_layers, add_adapters
from cxrseg.trainer.adapt.layer_table import layer_table
from cxrseg.trainer.adapt.quantization import (
    calibrate,
    freeze_observers,
    quantize,
    set_mode,
    set_weight_bits,
    unquantize,
)
from cxrseg.trainer.adapt.quantizers import (
    LEVELS,
    ActivationQuantizer,
    OperandQuantizer,
    QuantizedConv2d,
    QuantizedLinear,
    QuantizedWeight,
)
from cxrseg.trainer.adapt.settings import AdapterConfig, QuantizationConfig
from cxrseg.trainer.networks.layers import SplitLinear
from cxrseg.trainer.networks.lungsam import LungSAM

Make = Callable[..., LungSAM]


SEVEN = QuantizationConfig()


EIGHT = QuantizationConfig(weight_bits=8)


def quantized_layers(model: LungSAM) -> dict[str, QuantizedWeight]:
    return {n: m for n, m in model.named_modules() if isinstance(m, QuantizedWeight)}


def weighted(model: LungSAM) -> list[str]:
    """Return the names of the layers with a weight in a model's table."""
    return [layer.name for layer in layer_table(model) if layer.kind != "attention"]


def test_what_is_quantized(nano: Make) -> None:
    model = nano()
    names = weighted(model)
    quantize(model, SEVEN)
    assert list(quantized_layers(model)) == names
    assert weighted(model) == names, "the list must not depend on the state"
    for expected in (
        "image_encoder.patch_embed",
        "image_encoder.blocks.1.attn.qkv",
        "image_encoder.blocks.0.mlp.lin2",
        "image_encoder.neck.0",
        "image_encoder.neck.2",
        "mask_decoder.transformer.layers.0.self_attn.q_proj",
        "mask_decoder.output_upscaling.0",
        "mask_decoder.output_hypernetworks_mlps.1.layers.0",
    ):
        assert expected in names
    # Mask tokens without a label, and the quality head, are never computed.
    assert not [n for n in names if "iou_prediction" in n or "mlps.2" in n or "prompt" in n]
    convolutions = [n for n, m in quantized_layers(model).items() if isinstance(m, QuantizedConv2d)]
    assert convolutions == ["image_encoder.neck.2"]


@pytest.mark.parametrize(("config", "limit"), [(SEVEN, 63), (EIGHT, 127)])
@torch.no_grad()
def test_weights_are_whole_steps_within_the_limit(
    config: QuantizationConfig, limit: int, nano: Make, images: Tensor
) -> None:
    model = nano()
    quantize(model, config)
    calibrate(model, [images])
    for name, layer in quantized_layers(model).items():
        raw = layer.raw_weight()
        shape = (-1, *[1] * (raw.ndim - 1))
        scale = layer.weight_scale.reshape(shape)
        torch.testing.assert_close(
            layer.weight_scale, raw.flatten(1).abs().amax(1) / limit, msg=name
        )
        steps = layer.rounded(raw) / scale
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4, msg=name)
        # Each channel uses its whole range, and no more.
        largest = steps.flatten(1).abs().amax(1).round()
        assert torch.equal(largest, torch.full_like(largest, limit)), name
        assert ((layer.rounded(raw) - raw).abs() <= 0.5001 * scale).all(), name


@torch.no_grad()
def test_weights_stay_within_the_limit_when_they_grow(nano: Make, images: Tensor) -> None:
    model = nano()
    quantize(model, SEVEN)
    calibrate(model, [images])
    layer = quantized_layers(model)["image_encoder.blocks.0.mlp.lin1"]
    layer.layer.weight.mul_(3)
    layer.train()
    steps = layer.rounded(layer.raw_weight()) / layer.weight_scale[:, None]
    assert int(steps.abs().max().round()) == 63


@torch.no_grad()
def test_weights_stay_within_the_limit_after_the_last_step(nano: Make, images: Tensor) -> None:
    model = nano()
    quantize(model, SEVEN)
    calibrate(model, [images])
    model.train()
    model(images)
    layer = quantized_layers(model)["image_encoder.blocks.0.mlp.lin1"]
    layer.layer.weight.mul_(1.05)  # what an optimizer does after its last forward pass
    model.eval()
    model(images)
    steps = layer.rounded(layer.raw_weight()) / layer.weight_scale[:, None]
    assert int(steps.abs().max().round()) == 63


def test_channel_of_zeros_has_a_scale(nano: Make) -> None:
    model = nano()
    quantize(model, SEVEN)
    layer = quantized_layers(model)["image_encoder.blocks.0.mlp.lin1"]
    with torch.no_grad():
        layer.layer.weight[3] = 0
    set_mode(model, "quantize")
    layer.train()
    rounded = layer.rounded(layer.raw_weight())
    assert (rounded[3] == 0).all() and rounded.isfinite().all()
    assert (layer.weight_scale > 0).all()


def test_patterns_keep_layers_in_float(nano: Make) -> None:
    model = nano()
    everything = set(weighted(model))
    patterns = ("image_encoder.blocks.0.*", "*.neck.?", "image_encoder.blocks.1.attn.matmul")
    quantize(model, QuantizationConfig(keep_float=patterns))
    kept = everything - set(quantized_layers(model))
    assert kept == {
        "image_encoder.blocks.0.attn.qkv",
        "image_encoder.blocks.0.attn.proj",
        "image_encoder.blocks.0.mlp.lin1",
        "image_encoder.blocks.0.mlp.lin2",
        "image_encoder.neck.0",
        "image_encoder.neck.2",
    }
    for block in model.image_encoder.blocks:
        assert all(type(q) is nn.Identity for q in block.attn.quantizers.values())


@torch.no_grad()
@pytest.mark.parametrize(
    "window",
    [
        0,
        2,
        3,
    ],
)
def test_bypass_equals_float(window: int, nano: Make, images: Tensor) -> None:
    model = nano(window=window, global_blocks=(1,))
    before = model(images)
    quantize(model, SEVEN)
    torch.testing.assert_close(model(images), before, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_calibration(nano: Make, images: Tensor) -> None:
    model = nano()
    before = model(images)
    quantize(model, QuantizationConfig(momentum=1.0))
    calibrate(model, [images])
    after = model(images)
    assert not model.training
    difference = (after - before).abs().max()
    assert 0 < difference < 0.3 * before.std()
    first = quantized_layers(model)["image_encoder.patch_embed"].input
    assert float(first.low) == pytest.approx(min(float(images.min()), 0), abs=1e-6)
    assert float(first.high) == pytest.approx(float(images.max()), abs=1e-6)
    for name, module in model.named_modules():
        if isinstance(module, ActivationQuantizer):
            assert module.mode == "quantize", name
            assert module.low <= 0 <= module.high and module.low < module.high, name
            levels = 2 * 63 if isinstance(module, OperandQuantizer) else LEVELS
            assert float(module.scale) == pytest.approx(
                float(module.high - module.low) / levels, rel=1e-5
            )
    probability = model.get_submodule("image_encoder.blocks.0.attn.quantizers.probability")
    assert float(probability.get_buffer("low")) == 0
    assert int(probability.get_buffer("zero_point")) == 0


@torch.no_grad()
def test_ranges_are_tracked_in_training_only(nano: Make, images: Tensor) -> None:
    model = nano()
    quantize(model, SEVEN)
    calibrate(model, [0.5 * images])
    first = quantized_layers(model)["image_encoder.patch_embed"].input
    high = float(first.high)
    model(images)
    assert float(first.high) == high
    model.train()
    model(images)
    moved = float(first.high)
    assert moved == pytest.approx(high + 0.02 * (float(images.max()) - high), rel=1e-4)
    freeze_observers(model, True)
    model(images)
    assert float(first.high) == moved


@torch.no_grad()
def test_unquantize_restores(nano: Make, images: Tensor) -> None:
    model = nano()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    before = model(images)
    quantize(model, SEVEN)
    calibrate(model, [images])
    unquantize(model)
    assert not quantized_layers(model)
    assert not [m for m in model.modules() if isinstance(m, ActivationQuantizer)]
    assert list(model.state_dict()) == list(state)
    torch.testing.assert_close(model(images), before, rtol=0, atol=0)


def test_gradients_reach_adapters_through_the_rounding(nano: Make, images: Tensor) -> None:
    model = nano()
    add_adapters(model, AdapterConfig(init_rank=4, target_rank=2), 10)
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            layer.lora_E["default"].normal_(0, 1, generator=torch.Generator().manual_seed(3))
    quantize(model, SEVEN)
    calibrate(model, [images])
    model.train()
    qkv = model.get_submodule("image_encoder.blocks.0.attn.qkv")
    assert isinstance(qkv, QuantizedLinear) and isinstance(qkv.layer, SplitLinear)
    model(images).square().mean().backward()
    assert len(adapted_layers(model)) == 12
    for name, layer in adapted_layers(model).items():
        for factor in (layer.lora_A["default"], layer.lora_B["default"]):
            assert factor.grad is not None and factor.grad.abs().max() > 0, name
        assert layer.get_base_layer().weight.grad is None, name


@torch.no_grad()
def test_the_rounded_weight_holds_the_adapters(nano: Make, images: Tensor) -> None:
    model = nano()
    add_adapters(model, AdapterConfig(init_rank=4, target_rank=2), 10)
    quantize(model, SEVEN)
    calibrate(model, [images])
    layer = quantized_layers(model)["image_encoder.blocks.0.mlp.lin1"]
    before = layer.rounded(layer.raw_weight())
    layer.layer.lora_E["default"].fill_(5.0)
    layer.update_scale(layer.raw_weight())
    after = layer.rounded(layer.raw_weight())
    delta = layer.layer.get_delta_weight("default")
    assert delta.abs().max() > 0.05
    assert ((after - before) - delta).abs().max() < layer.weight_scale.max() * 1.5


@torch.no_grad()
@pytest.mark.parametrize("bits", [7, 8])
def test_bits_of_weights_are_those_of_keys_and_values(
    bits: int, nano: Make, images: Tensor
) -> None:
    model = nano()
    quantize(model, SEVEN)
    calibrate(model, [images])
    set_weight_bits(model, bits)
    found = [m for m in model.modules() if isinstance(m, OperandQuantizer)]
    assert len(found) == 2 * model.architecture.depth
    for module in found:
        assert float(module.high / module.scale) == pytest.approx(2 ** (bits - 1) - 1)
