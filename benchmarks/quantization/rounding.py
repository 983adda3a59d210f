"""What rounding weights to integers does to them, and how its errors are distributed.

A weight is rounded to the nearest multiple of its channel's step, so its error lies within half a
step and, where weights vary by many steps, is spread evenly over it. Pooled over channels whose
steps differ, such errors pile up around zero without being normal. Nothing is assumed here: both
distributions are fitted, and the distance to each is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrseg.benchmarks.quantization.layers import Layer

SAMPLE = 1_000_000
"""Most weights that distributions are fitted to and drawn from; moments are of all."""

DECILES = 10
"""Groups of weights by amplitude."""

ALPHA = 0.05
"""Level of the test of normality."""

Float = NDArray[np.float32]


@dataclass(frozen=True)
class LayerError:
    """Rounding of one layer's weight.

    Attributes:
        name: The layer.
        weights: Number of weights.
        channels: Number of output channels, each with a step of its own.
        step: Mean step.
        rms: Root mean square of the error.
        largest: Largest absolute error in steps of its channel; rounding alone gives at most 0.5.
        sqnr: 10 log10(sum(weight^2) / sum(error^2)) in dB; None where there is no error.
    """

    name: str
    weights: int
    channels: int
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
        correlation: Pearson's r of FP32 and INT8 weights.
        slope: Of the regression of INT8 on FP32 weights.
        errors: Moments of the errors, INT8 minus FP32.
        in_steps: The same in steps of each weight's channel.
        normality_p: p of D'Agostino and Pearson's test that the errors are normal, on the sample.
        distances: Kolmogorov-Smirnov distance, 0 to 1, from the fitted normal (``normal``); of the
            errors in steps from the fitted normal (``steps_normal``) and from a uniform one within
            half a step (``steps_uniform``).
        deciles: Errors by amplitude, smallest weights first.
        sample: float32 [3, N], N at most `SAMPLE`: weight, error, and error in steps.
    """

    layers: tuple[LayerError, ...]
    weights: int
    correlation: float
    slope: float
    errors: Moments
    in_steps: Moments
    normality_p: float
    distances: dict[str, float]
    deciles: tuple[Decile, ...]
    sample: Float

    @property
    def largest(self) -> float:
        """Largest absolute error in steps."""
        return max(each.largest for each in self.layers)

    @property
    def exact(self) -> bool:
        """Whether there is nothing but float noise: the FP32 weights are the INT8 ones."""
        return self.largest < 1e-2


def rounding_of(layers: Sequence[Layer], seed: int = 0) -> Rounding:
    """Measure the rounding of weights.

    Args:
        layers: Layers of both files, some with weights.
        seed: Seed of the sample.
    """
    with_weights = [each for each in layers if each.weight is not None]
    total = sum(each.weight.size for each in with_weights if each.weight is not None)
    rng = np.random.default_rng(seed)
    rows, samples = [], []
    errors, in_steps, products = np.zeros(4), np.zeros(4), np.zeros(5)
    for each in with_weights:
        assert each.weight is not None and each.rounded is not None and each.step is not None
        weight = each.weight.reshape(len(each.weight), -1)
        error = each.rounded.reshape(weight.shape) - weight
        steps = error / each.step[:, None]
        signal, noise = (float(np.square(x, dtype=np.float64).sum()) for x in (weight, error))
        rows.append(
            LayerError(
                name=each.name,
                weights=weight.size,
                channels=len(weight),
                step=float(each.step.mean()),
                rms=float(np.sqrt(noise / weight.size)),
                largest=float(np.abs(steps).max()),
                sqnr=float(10 * np.log10(signal / noise)) if noise and signal else None,
            )
        )
        flat = [x.reshape(-1) for x in (weight, error, steps)]
        errors += _powers(flat[1])
        in_steps += _powers(flat[2])
        products += _products(flat[0].astype(np.float64), flat[0].astype(np.float64) + flat[1])
        share = min(weight.size, max(1, round(weight.size * SAMPLE / total)))
        chosen = rng.choice(weight.size, share, replace=False) if total > SAMPLE else slice(None)
        samples.append(np.stack([x[chosen] for x in flat]))
    sample = np.concatenate(samples, axis=1)
    correlation, slope = _regression(products, total)
    moments = _moments(errors, total), _moments(in_steps, total)
    p, distances = _shape(sample, *moments)
    return Rounding(
        layers=tuple(rows),
        weights=total,
        correlation=correlation,
        slope=slope,
        errors=moments[0],
        in_steps=moments[1],
        normality_p=p,
        distances=distances,
        deciles=_deciles(sample),
        sample=sample,
    )


def _powers(x: Float) -> NDArray[np.float64]:
    """Return the sums of x to the powers 1 to 4."""
    values = x.astype(np.float64)
    square = values * values
    return np.array([values.sum(), square.sum(), square @ values, square @ square])


def _moments(sums: NDArray[np.float64], count: int) -> Moments:
    m1, m2, m3, m4 = sums / count
    variance = m2 - m1**2
    if variance <= 0:
        return Moments(float(m1), 0.0, 0.0, 0.0)
    third = m3 - 3 * m1 * m2 + 2 * m1**3
    fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
    return Moments(
        mean=float(m1),
        sd=float(np.sqrt(variance)),
        skewness=float(third / variance**1.5),
        kurtosis=float(fourth / variance**2 - 3),
    )


def _products(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([x.sum(), y.sum(), x @ x, y @ y, x @ y])


def _regression(sums: NDArray[np.float64], count: int) -> tuple[float, float]:
    """Return Pearson's r and the slope of y on x."""
    x, y, xx, yy, xy = sums / count
    covariance, spread = xy - x * y, ((xx - x**2), (yy - y**2))
    if min(spread) <= 0:
        return 0.0, 0.0
    return float(covariance / np.sqrt(spread[0] * spread[1])), float(covariance / spread[0])


def _shape(sample: Float, errors: Moments, in_steps: Moments) -> tuple[float, dict[str, float]]:
    """Return the p of normality, and the distances of `Rounding`."""
    from scipy.stats import kstest, norm, normaltest, uniform

    if errors.sd == 0 or in_steps.sd == 0:
        return 1.0, {"normal": 1.0, "steps_normal": 1.0, "steps_uniform": 1.0}
    _, error, steps = sample.astype(np.float64)
    fits = {
        "normal": kstest(error, norm(errors.mean, errors.sd).cdf),
        "steps_normal": kstest(steps, norm(in_steps.mean, in_steps.sd).cdf),
        "steps_uniform": kstest(steps, uniform(-0.5, 1).cdf),
    }
    distances = {name: float(fit.statistic) for name, fit in fits.items()}
    return float(normaltest(error).pvalue), distances


def _deciles(sample: Float) -> tuple[Decile, ...]:
    order = np.argsort(np.abs(sample[0]), kind="stable")
    found = []
    for part in np.array_split(order, DECILES):
        if len(part):
            error = sample[1, part].astype(np.float64)
            rms = float(np.sqrt(np.square(error).mean()))
            found.append(Decile(float(np.abs(sample[0, part[-1]])), float(error.mean()), rms))
    return tuple(found)


def findings(rounding: Rounding) -> str:
    """Say in words what is found of the errors' distribution, and nothing that is not."""
    errors, steps, far = rounding.errors, rounding.in_steps, rounding.distances
    if rounding.exact:
        return (
            "The FP32 weights are the INT8 ones times their scale: there is no rounding error to"
            " analyze. A checkpoint of cxrseg-recover has such weights."
        )
    normal = rounding.normality_p >= ALPHA
    test = "does not reject" if normal else "rejects"
    nearer = "a uniform" if far["steps_uniform"] < far["steps_normal"] else "a normal"
    beyond = (
        "No error exceeds half a step, so that it is rounding alone."
        if rounding.largest <= 0.501
        else f"Errors reach {rounding.largest:.2f} steps, more than rounding gives (0.5): the"
        " weights differ by training too."
    )
    return (
        f"Errors of {rounding.weights:,} weights have a mean of {steps.mean:+.4f} steps and a"
        f" standard deviation of {steps.sd:.4f} steps (uniform rounding: 0.2887). {beyond}"
        f" FP32 and INT8 weights correlate at r = {rounding.correlation:.6f}.\n\n"
        f"D'Agostino and Pearson's test {test} a normal distribution of the pooled errors"
        f" (p {'<0.0001' if rounding.normality_p < 1e-4 else f'= {rounding.normality_p:.4f}'};"
        f" skewness {errors.skewness:+.2f}, excess kurtosis {errors.kurtosis:+.2f}; at this number"
        " of weights the smallest deviation is significant, so distances tell more): their"
        f" Kolmogorov-Smirnov distance from the fitted normal is {far['normal']:.4f}."
        "\n\nIn steps of its own channel an error's distribution is nearer to"
        f" {nearer} one: distance {far['steps_uniform']:.4f} from uniform,"
        f" {far['steps_normal']:.4f} from normal, excess kurtosis"
        f" {steps.kurtosis:+.2f} (uniform -1.2, normal 0)."
    )
