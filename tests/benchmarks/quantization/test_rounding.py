"""Rounding of weights with known distributions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cxrseg.benchmarks.quantization import rounding
from cxrseg.benchmarks.quantization.layers import Layer
from cxrseg.benchmarks.quantization.rounding import findings, rounding_of


def layer(weight: np.ndarray, limit: int = 63, name: str = "a") -> Layer:  # type: ignore[type-arg]
    weight = weight.astype(np.float32)
    step = np.abs(weight).max(axis=1) / limit
    rounded = np.rint(weight / step[:, None]) * step[:, None]
    return Layer(name, weight, rounded.astype(np.float32), step, limit, ("x", "y"))


def normal(channels: int = 64, inputs: int = 512, seed: int = 0) -> Layer:
    return layer(np.random.default_rng(seed).normal(size=(channels, inputs)))


def test_rounding_is_uniform_within_a_step() -> None:
    found = rounding_of([normal(), normal(32, 256, 1)])
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
    each = normal()
    assert each.weight is not None and each.step is not None
    noise = np.random.default_rng(2).normal(0, 0.7, each.weight.shape)
    step = np.full_like(each.step, 0.1)
    noisy = (each.weight + noise * step[:, None]).astype(np.float32)
    found = rounding_of([replace(each, rounded=noisy, step=step)])
    assert found.errors.kurtosis == pytest.approx(0, abs=0.1)
    assert found.distances["normal"] < 0.01
    text = findings(found)
    assert "does not reject a normal distribution" in text and "nearer to a normal one" in text
    assert "differ by training" in text


def test_figures_are_those_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [normal(), layer(3 * np.random.default_rng(3).normal(size=(8, 40)), name="b")]
    found = rounding_of(layers)
    weight = np.concatenate([e.weight.ravel() for e in layers if e.weight is not None])
    rounded = np.concatenate([e.rounded.ravel() for e in layers if e.rounded is not None])
    error = (rounded - weight).astype(np.float64)
    assert found.errors.mean == pytest.approx(error.mean(), abs=1e-9)
    assert found.errors.sd == pytest.approx(error.std())
    standardized = (error - error.mean()) / error.std()
    assert found.errors.skewness == pytest.approx((standardized**3).mean(), abs=1e-6)
    assert found.errors.kurtosis == pytest.approx((standardized**4).mean() - 3, abs=1e-6)
    assert found.correlation == pytest.approx(np.corrcoef(weight, rounded)[0, 1], abs=1e-9)
    for row, each in zip(found.layers, layers, strict=True):
        assert each.weight is not None and each.rounded is not None
        noise = each.rounded - each.weight
        ratio = 10 * np.log10(np.square(each.weight).sum() / np.square(noise).sum())
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
    each = normal()
    assert each.rounded is not None
    found = rounding_of([replace(each, weight=each.rounded)])
    assert found.exact and found.layers[0].sqnr is None
    assert "no rounding error" in findings(found)
