"""What rounding weights to integers does to them, and how its errors are distributed.

A weight is rounded to the nearest multiple of its channel's step. Its error is therefore at most
half a step, and uniform within it where weights vary by many steps. Pooled over channels of
different steps, such errors crowd around zero without being normal. Nothing is assumed here: a
normal and a uniform distribution are compared with the errors, and the distances are told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cxrseg.benchmarks.quantization.layers import Float, Weights

SAMPLE = 1_000_000
"""Most weights that distributions are compared on and drawn from; moments are of all."""

DECILES = 10
"""Groups of weights by amplitude."""

ALPHA = 0.05
"""Level of the test of normality."""

HALF_STEP = 0.501
"""Largest error in steps that rounding alone gives, with some room for float arithmetic."""


@dataclass(frozen=True)
class LayerError:
    """Rounding of one layer's weight.

    Attributes:
        name: The layer.
        weights: Number of weights.
        step: Mean step of its channels.
        rms: Root mean square of the error.
        largest: Largest absolute error in steps of its channel.
        sqnr: 10 log10(sum(weight^2) / sum(error^2)) in dB; None where there is no error.
    """

    name: str
    weights: int
    step: float
    rms: float
    largest: float
    sqnr: float | None


@dataclass(frozen=True)
class Moments:
    """Moments of a distribution, over all weights.

    Attributes:
        mean: Mean.
        sd: Standard deviation.
        skewness: Third standardized moment; 0 for a symmetric one.
        kurtosis: Fourth standardized moment minus 3: 0 for a normal, -1.2 for a uniform one.
    """

    mean: float
    sd: float
    skewness: float
    kurtosis: float


@dataclass(frozen=True)
class Decile:
    """Errors of a tenth of the weights, by amplitude.

    Attributes:
        largest: Largest absolute weight of the group.
        mean: Mean error.
        rms: Root mean square error.
    """

    largest: float
    mean: float
    rms: float


@dataclass(frozen=True, eq=False)
class Rounding:
    """Rounding of all weights of a model.

    Attributes:
        layers: Layer by layer.
        weights: Number of weights.
        errors: Moments of the errors, INT8 minus FP32.
        in_steps: The same in steps of each weight's channel.
        correlation: Pearson's r of FP32 and INT8 weights.
        slope: Of the regression of INT8 on FP32 weights.
        normality_p: p of D'Agostino and Pearson's test that the errors are normal, on the sample
            like all that follows.
        distances: Kolmogorov-Smirnov distance, 0 to 1, from the fitted normal (``normal``); of the
            errors in steps from the fitted normal (``steps_normal``) and from a uniform one within
            half a step (``steps_uniform``).
        deciles: Errors by amplitude, smallest weights first.
        sample: float64 [3, N], N at most about `SAMPLE`: weight, error, and error in steps.
    """

    layers: tuple[LayerError, ...]
    weights: int
    errors: Moments
    in_steps: Moments
    correlation: float
    slope: float
    normality_p: float
    distances: dict[str, float]
    deciles: tuple[Decile, ...]
    sample: NDArray[np.float64]

    @property
    def largest(self) -> float:
        """Largest absolute error in steps."""
        return max(layer.largest for layer in self.layers)

    @property
    def alone(self) -> bool:
        """Whether rounding explains all errors, so that the weights are otherwise the same."""
        return self.largest <= HALF_STEP

    @property
    def exact(self) -> bool:
        """Whether there is nothing but float noise: the FP32 weights are the INT8 ones."""
        return self.largest < 1e-2


def rounding_of(layers: Mapping[str, Weights], seed: int = 0) -> Rounding:
    """Measure the rounding of weights.

    Args:
        layers: Layer -> its weight in both files; at least one.
        seed: Seed of the sample.
    """
    parts = {name: _flat(weights) for name, weights in layers.items()}
    errors, in_steps = (_moments([part[row] for part in parts.values()]) for row in (1, 2))
    correlation, slope = _regression(list(parts.values()))
    sample = _sample(list(parts.values()), seed)
    return Rounding(
        layers=tuple(_layer_error(name, part, layers[name].step) for name, part in parts.items()),
        weights=sum(part.shape[1] for part in parts.values()),
        errors=errors,
        in_steps=in_steps,
        correlation=correlation,
        slope=slope,
        normality_p=float(stats.normaltest(sample[1]).pvalue) if errors.sd else 1.0,
        distances=_distances(sample, errors, in_steps),
        deciles=_deciles(sample),
        sample=sample,
    )


def _flat(weights: Weights) -> Float:
    """Return weight, error and error in steps, float32 [3, weights]."""
    error = weights.rounded - weights.exact
    return np.stack([weights.exact, error, error / weights.step[:, None]]).reshape(3, -1)


def _layer_error(name: str, part: Float, step: Float) -> LayerError:
    signal, noise = np.square(part[:2], dtype=np.float64).sum(axis=1)
    return LayerError(
        name=name,
        weights=part.shape[1],
        step=float(step.mean()),
        rms=float(np.sqrt(noise / part.shape[1])),
        largest=float(np.abs(part[2]).max()),
        sqnr=float(10 * np.log10(signal / noise)) if noise and signal else None,
    )


def _moments(parts: Sequence[Float]) -> Moments:
    """Return the moments of all values together, in float64, one part after the other."""
    sizes = [part.size for part in parts]
    mean = float(np.average([part.mean(dtype=np.float64) for part in parts], weights=sizes))
    central = [stats.moment(part.astype(np.float64), (2, 3, 4), center=mean) for part in parts]
    second, third, fourth = map(float, np.average(central, axis=0, weights=sizes))
    if second == 0:
        return Moments(mean, 0.0, 0.0, 0.0)
    sd = second**0.5
    return Moments(mean, sd, third / sd**3, fourth / second**2 - 3)


def _regression(parts: Sequence[Float]) -> tuple[float, float]:
    """Return Pearson's r of the weights in both files, and the slope of INT8 on FP32 weights."""
    sizes = [part.shape[1] for part in parts]
    pairs = [np.stack([part[0], part[0] + part[1]]).astype(np.float64) for part in parts]
    mean = np.average([pair.mean(axis=1) for pair in pairs], axis=0, weights=sizes)
    centered = (pair - mean[:, None] for pair in pairs)
    (exact, both), (_, rounded) = np.sum([pair @ pair.T for pair in centered], axis=0)
    return float(both / np.sqrt(exact * rounded)), float(both / exact)


def _sample(parts: Sequence[Float], seed: int) -> NDArray[np.float64]:
    """Return all weights, or about `SAMPLE` of them, of each layer in proportion to its size."""
    rng = np.random.default_rng(seed)
    share = min(1.0, SAMPLE / sum(part.shape[1] for part in parts))
    chosen = [
        rng.choice(part, max(1, round(share * part.shape[1])), replace=False, axis=1)
        if share < 1
        else part
        for part in parts
    ]
    return np.concatenate(chosen, axis=1).astype(np.float64)


def _distances(sample: NDArray[np.float64], errors: Moments, in_steps: Moments) -> dict[str, float]:
    """Return the distances of `Rounding`; 1 where there are no errors."""
    if errors.sd == 0:
        return {"normal": 1.0, "steps_normal": 1.0, "steps_uniform": 1.0}
    _, error, steps = sample
    tests = {
        "normal": stats.kstest(error, stats.norm(errors.mean, errors.sd).cdf),
        "steps_normal": stats.kstest(steps, stats.norm(in_steps.mean, in_steps.sd).cdf),
        "steps_uniform": stats.kstest(steps, stats.uniform(-0.5, 1).cdf),
    }
    return {name: float(test.statistic) for name, test in tests.items()}


def _deciles(sample: NDArray[np.float64]) -> tuple[Decile, ...]:
    order = np.argsort(np.abs(sample[0]), kind="stable")
    groups = [sample[:2, part] for part in np.array_split(order, DECILES) if len(part)]
    return tuple(
        Decile(
            largest=float(np.abs(weight).max()),
            mean=float(error.mean()),
            rms=float(np.sqrt(np.square(error).mean())),
        )
        for weight, error in groups
    )


def findings(rounding: Rounding) -> str:
    """Say in words what the errors' distribution is like, and nothing that was not measured."""
    errors, steps, far = rounding.errors, rounding.in_steps, rounding.distances
    if rounding.exact:
        return (
            "The FP32 weights are the INT8 ones times their scale: there is no rounding error to"
            " analyze. A checkpoint of cxrseg-recover has such weights."
        )
    p = rounding.normality_p
    test = "does not reject" if p >= ALPHA else "rejects"
    nearer = "a uniform" if far["steps_uniform"] < far["steps_normal"] else "a normal"
    cause = (
        "No error exceeds half a step: rounding alone explains them."
        if rounding.alone
        else f"Errors reach {rounding.largest:.2f} steps, more than the 0.5 of rounding alone: the"
        " weights differ by training too."
    )
    return (
        f"The errors of {rounding.weights:,} weights have a mean of {steps.mean:+.4f} steps and a"
        f" standard deviation of {steps.sd:.4f} steps (uniform rounding: 0.2887). {cause}"
        f" FP32 and INT8 weights correlate at r = {rounding.correlation:.6f}.\n\n"
        f"D'Agostino and Pearson's test {test} a normal distribution of the pooled errors"
        f" (p {'<0.0001' if p < 1e-4 else f'= {p:.4f}'}, skewness {errors.skewness:+.2f}, excess"
        f" kurtosis {errors.kurtosis:+.2f}). With so many weights the smallest deviation is"
        " significant, so distances say more: the Kolmogorov-Smirnov distance of the errors from"
        f" the fitted normal is {far['normal']:.4f}.\n\n"
        f"In steps of its own channel, the distribution of an error is nearer to {nearer} one:"
        f" distance {far['steps_uniform']:.4f} from uniform, {far['steps_normal']:.4f} from normal,"
        f" excess kurtosis {steps.kurtosis:+.2f} (uniform -1.2, normal 0)."
    )
