"""Fake quantizers alone: ranges, steps, and limits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from cxrseg.trainer.adapt.quantization import (
    calibrate,
    quantize,
)
from cxrseg.trainer.adapt.quantizers import (
    LEVELS,
    ActivationQuantizer,
    OperandQuantizer,
    RowQuantizer,
)
from cxrseg.trainer.adapt.settings import QuantizationConfig
from cxrseg.trainer.networks.lungsam import LungSAM

Make = Callable[..., LungSAM]


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
