"""Fake quantization: what it rounds, what it leaves alone, and that it can be taken out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from cxrseg.trainer.adapt.adapters import AdapterConfig, adapted_layers, add_adapters
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
    QuantizationConfig,
    QuantizedConv2d,
    QuantizedLinear,
    QuantizedWeight,
    RowQuantizer,
)
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


FLOATS = hnp.arrays(
    np.float32,
    st.integers(1, 40),
    elements=st.floats(-1000, 1000, width=32, allow_subnormal=False),
)


@settings(max_examples=150, deadline=None)
@given(x=FLOATS, low=st.floats(-100, 100), high=st.floats(-100, 100))
def test_activations_are_within_half_a_step(
    x: np.ndarray[tuple[int], np.dtype[np.float32]], low: float, high: float
) -> None:
    quantizer = ActivationQuantizer(momentum=1.0)
    quantizer.observe(torch.tensor([low, high]))
    assert quantizer.low <= 0 <= quantizer.high
    assert 0 <= int(quantizer.zero_point) <= LEVELS
    quantizer.mode = "quantize"
    quantizer.eval()
    values = torch.from_numpy(x)
    rounded = quantizer(values)
    scale, zero = quantizer.scale, int(quantizer.zero_point)
    bottom, top = -zero * scale, (LEVELS - zero) * scale
    inside = (values >= bottom) & (values <= top)
    step = float(scale)
    assert ((rounded - values).abs()[inside] <= step * 0.5 + 1e-4 * step + 1e-5).all()
    assert (rounded >= bottom - 1e-3 * step).all() and (rounded <= top + 1e-3 * step).all()
    assert float(quantizer(torch.zeros(1))) == 0, "zero must be exact"


@settings(max_examples=150, deadline=None)
@given(x=FLOATS, seen=FLOATS, limit=st.sampled_from([63, 127]))
def test_second_operands_keep_their_limit(
    x: np.ndarray[tuple[int], np.dtype[np.float32]],
    seen: np.ndarray[tuple[int], np.dtype[np.float32]],
    limit: int,
) -> None:
    """Whatever comes, no integer exceeds the limit, and within the range each is the nearest."""
    quantizer = OperandQuantizer(momentum=1.0, limit=limit, holds=1.0)
    quantizer.observe(torch.from_numpy(seen))
    quantizer.mode = "quantize"
    quantizer.eval()
    values, scale = torch.from_numpy(x), float(quantizer.scale)
    high = float(quantizer.high)
    assert high == pytest.approx(max(1.0, float(np.abs(seen).max())))
    integers = quantizer(values) / scale
    assert int(integers.abs().max().round()) <= limit
    nearest = values.clamp(-high, high) / scale
    assert (integers - nearest).abs().max() <= 0.5 + 1e-3
    assert float(quantizer(torch.zeros(1))) == 0


class TestRowScales:
    """Rows of attention with scales of their own."""

    @pytest.fixture
    def quantizer(self) -> RowQuantizer:
        quantizer = RowQuantizer(momentum=1.0).eval()
        quantizer.observe(torch.tensor([0.2, 0.3]))
        quantizer.mode = "quantize"
        return quantizer

    def test_attention_to_hundreds_of_keys_outlives_rounding(self, quantizer: RowQuantizer) -> None:
        weights = torch.stack([torch.full((600,), 1 / 600), torch.eye(600)[7]])[None]
        values = torch.randn(1, 600, 4, generator=torch.Generator().manual_seed(0))
        wanted = weights @ values
        torch.testing.assert_close(quantizer.mix(weights, values), wanted, rtol=1e-3, atol=1e-5)
        whole = ActivationQuantizer(momentum=1.0).eval()
        whole.observe(weights)
        whole.mode = "quantize"
        lost, kept = (whole(weights) @ values)[0]
        assert not lost.any(), "no probability reaches half a step"
        torch.testing.assert_close(kept, wanted[0, 1])

    @settings(max_examples=100, deadline=None)
    @given(scores=hnp.arrays(np.float32, (3, 9), elements=st.floats(-40, 40, width=32)))
    def test_error_is_half_a_step_of_the_largest(
        self, scores: np.ndarray[tuple[int, int], np.dtype[np.float32]]
    ) -> None:
        quantizer = RowQuantizer(momentum=1.0).eval()
        quantizer.mode = "quantize"
        weights = torch.from_numpy(scores).softmax(dim=-1)[None]
        values = torch.eye(9)[None]
        error = (quantizer.mix(weights, values) - weights).abs()
        step = weights.amax(dim=-1, keepdim=True) / LEVELS
        assert (error <= 0.501 * step).all()

    def test_gradients_are_those_of_the_product(self, quantizer: RowQuantizer) -> None:
        generator = torch.Generator().manual_seed(1)
        weights = torch.randn(2, 5, 5, generator=generator).softmax(dim=-1).requires_grad_()
        values = torch.randn(2, 5, 3, generator=generator)
        quantizer.mix(weights, values).sum().backward()
        found, weights.grad = weights.grad, None
        (weights @ values).sum().backward()
        torch.testing.assert_close(found, weights.grad)

    @torch.no_grad()
    def test_a_network_is_float_in_mode_bypass(self, nano: Make, images: Tensor) -> None:
        model = nano()
        wanted = model(images)
        quantize(model, QuantizationConfig(row_scales=True))
        torch.testing.assert_close(model(images), wanted, rtol=1e-4, atol=1e-4)
        rows = [m for m in model.modules() if isinstance(m, RowQuantizer)]
        assert len(rows) == model.architecture.depth
        calibrate(model, [images])
        assert all((float(m.low), float(m.high)) == (0, 1) for m in rows)


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


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(FLOATS, min_size=1, max_size=5))
def test_tracked_range_always_holds_zero(
    batches: list[np.ndarray[tuple[int], np.dtype[np.float32]]],
) -> None:
    quantizer = ActivationQuantizer(momentum=0.3)
    for batch in batches:
        quantizer.observe(torch.from_numpy(batch))
        assert quantizer.low <= 0 <= quantizer.high
        assert float(quantizer.scale) > 0


@pytest.mark.parametrize("bad", [{"weight_bits": 4}, {"momentum": 0}, {"bits": 8}])
def test_nonsense_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        QuantizationConfig.model_validate(bad)
