"""Rounding of weights with known distributions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from cxrseg.benchmarks.quantization import rounding
from cxrseg.benchmarks.quantization.layers import Weights
from cxrseg.benchmarks.quantization.rounding import findings, rounding_of


def quantized(weight: NDArray[np.float64], limit: int = 63) -> Weights:
    exact = weight.astype(np.float32)
    step = np.abs(exact).max(axis=1) / limit
    rounded = np.rint(exact / step[:, None]) * step[:, None]
    return Weights(exact, rounded.astype(np.float32), step)


def normal(channels: int = 64, inputs: int = 512, seed: int = 0) -> Weights:
    return quantized(np.random.default_rng(seed).normal(size=(channels, inputs)))


def test_rounding_is_uniform_within_a_step() -> None:
    found = rounding_of({"a": normal(), "b": normal(32, 256, 1)})
    assert found.weights == 64 * 512 + 32 * 256
    assert found.in_steps.sd == pytest.approx(1 / np.sqrt(12), rel=0.02)
    assert found.in_steps.kurtosis == pytest.approx(-1.2, abs=0.05)
    assert found.distances["steps_uniform"] < 0.01 < 0.04 < found.distances["steps_normal"]
    assert found.largest <= 0.5 + 1e-4
    text = findings(found)
    assert "nearer to a uniform one" in text and "rounding alone" in text
    assert "rejects a normal distribution" in text


def test_normal_errors_are_called_normal() -> None:
    """Errors that are not of rounding are told apart from those that are."""
    weights = normal()
    noise = np.random.default_rng(2).normal(0, 0.7, weights.exact.shape)
    step = np.full_like(weights.step, 0.1)
    noisy = (weights.exact + noise * step[:, None]).astype(np.float32)
    found = rounding_of({"a": replace(weights, rounded=noisy, step=step)})
    assert found.errors.kurtosis == pytest.approx(0, abs=0.1)
    assert found.distances["normal"] < 0.01
    text = findings(found)
    assert "does not reject a normal distribution" in text and "nearer to a normal one" in text
    assert "differ by training" in text


def test_figures_are_those_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = {"a": normal(), "b": quantized(3 * np.random.default_rng(3).normal(size=(8, 40)))}
    found = rounding_of(layers)
    weight = np.concatenate([layer.exact.ravel() for layer in layers.values()])
    rounded = np.concatenate([layer.rounded.ravel() for layer in layers.values()])
    error = (rounded - weight).astype(np.float64)
    assert found.errors.mean == pytest.approx(error.mean(), abs=1e-9)
    assert found.errors.sd == pytest.approx(error.std())
    standardized = (error - error.mean()) / error.std()
    assert found.errors.skewness == pytest.approx((standardized**3).mean(), abs=1e-6)
    assert found.errors.kurtosis == pytest.approx((standardized**4).mean() - 3, abs=1e-6)
    assert found.correlation == pytest.approx(np.corrcoef(weight, rounded)[0, 1], abs=1e-9)
    for row, layer in zip(found.layers, layers.values(), strict=True):
        noise = layer.rounded - layer.exact
        ratio = 10 * np.log10(np.square(layer.exact).sum() / np.square(noise).sum())
        assert row.sqnr == pytest.approx(ratio, abs=1e-3)
        assert row.rms == pytest.approx(np.sqrt(np.square(noise).mean()), rel=1e-4)
    order = np.argsort(np.abs(weight))[: len(weight) // 10]
    assert found.deciles[0].rms == pytest.approx(np.sqrt(np.square(error[order]).mean()), rel=0.01)
    assert len(found.deciles) == 10

    monkeypatch.setattr(rounding, "SAMPLE", 5000)
    sampled = rounding_of(layers)
    assert sampled.sample.shape[1] == pytest.approx(5000, abs=2)
    assert sampled.errors == found.errors, "moments are of all weights"
    assert sampled.distances["steps_uniform"] < 0.03


def test_weights_without_error() -> None:
    """As of a checkpoint that was recovered from the INT8 file."""
    weights = normal()
    found = rounding_of({"a": replace(weights, exact=weights.rounded)})
    assert found.exact and found.layers[0].sqnr is None
    assert "no rounding error" in findings(found)
