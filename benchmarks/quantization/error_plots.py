"""Figure 3 of the paper, and a plot of the noise that INT8 brings to each layer's output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from scipy.stats import norm

from cxrseg.benchmarks.harness.plots import BLUE, GRAY, ORANGE, RED, blank, plot, styled
from cxrseg.benchmarks.harness.result import Plot
from cxrseg.benchmarks.quantization.noise import LOGITS, Noise
from cxrseg.benchmarks.quantization.rounding import Rounding

WEIGHTS, OUTPUTS = "weights", "outputs"
"""Names of the plots."""

BINS = 121
QUANTILES = 500

_GROUPS = {
    "attention products": (RED, ".matmul."),
    "encoder layers": (BLUE, "image_encoder"),
    "decoder layers": (ORANGE, "mask_decoder"),
    "logits": ("black", LOGITS),
}
"""Group of layers -> its color, and a part of its layers' names; the first match counts."""


@styled
def plot_weights(rounding: Rounding) -> Plot:
    """Draw the distribution of rounding errors of all weights, as the paper does, and more.

    Args:
        rounding: Measured rounding with errors.
    """
    figure, axes = blank(10, 6.2, 2, 3)
    _draw_errors(axes[0, 0], rounding)
    _draw_correlation(axes[0, 1], rounding)
    _draw_amplitudes(axes[0, 2], rounding)
    _draw_quantiles(axes[1, 0], rounding)
    _draw_steps(axes[1, 1], rounding)
    axis = axes[1, 2]
    axis.plot([layer.sqnr or np.nan for layer in rounding.layers], ".", color=BLUE, ms=4)
    axis.set(title="(f) weights, layer by layer", xlabel="layer", ylabel="SQNR, dB")
    distances = rounding.distances
    return plot(
        WEIGHTS,
        figure,
        f"Rounding of {rounding.weights:,} weights. (a) errors and the normal of the same mean and"
        f" spread (Kolmogorov-Smirnov distance {distances['normal']:.3f}); (b) INT8 against FP32;"
        " (c) errors by amplitude; (d) quantiles of the errors against those of a normal, on the"
        " line if they were normal; (e) errors in steps of their own channel (distance"
        f" {distances['steps_uniform']:.3f} from uniform, {distances['steps_normal']:.3f} from"
        " normal; the largest weight of each channel, which sets the step, has no error);"
        " (f) signal to quantization noise of each layer's weights.",
    )


def _reach(values: Any, share: float) -> float:
    """Return the absolute value that this share of the values stays below; 1 if that is 0."""
    return float(np.quantile(np.abs(values), share)) or 1.0


def _draw_errors(axis: Any, rounding: Rounding) -> None:
    error = rounding.sample[1]
    reach = _reach(error, 0.999)
    axis.hist(error, BINS, (-reach, reach), density=True, color=BLUE)
    x = np.linspace(-reach, reach, 400)
    fitted = norm.pdf(x, rounding.errors.mean, rounding.errors.sd)
    axis.plot(x, fitted, color=ORANGE, label="fitted normal")
    axis.set(title="(a) error", xlabel="INT8 minus FP32 weight", ylabel="density", yticks=[])
    axis.locator_params(axis="x", nbins=5)
    axis.legend(loc="upper right")


def _draw_density(axis: Any, x: Any, y: Any, extent: tuple[float, float, float, float]) -> None:
    axis.hexbin(x, y, extent=extent, cmap="Blues", gridsize=90, norm=LogNorm())


def _draw_correlation(axis: Any, rounding: Rounding) -> None:
    weight, error, _ = rounding.sample
    reach = _reach(weight, 0.9999)
    _draw_density(axis, weight, weight + error, (-reach, reach, -reach, reach))
    axis.plot([-reach, reach], [-reach, reach], color=RED, lw=0.7)
    axis.set(title="(b) correlation", xlabel="FP32 weight", ylabel="INT8 weight")
    axis.text(0.05, 0.92, f"r = {rounding.correlation:.6f}", transform=axis.transAxes)


def _draw_amplitudes(axis: Any, rounding: Rounding) -> None:
    weight, error, _ = rounding.sample
    highest, largest = _reach(weight, 0.999), float(np.abs(error).max())
    _draw_density(axis, np.abs(weight), error, (0, highest, -largest, largest))
    deciles = rounding.deciles
    axis.step(
        [0, *(min(decile.largest, highest) for decile in deciles)],
        [decile.rms for decile in (deciles[0], *deciles)],
        color=RED,
        label="RMS per tenth of the weights",
    )
    axis.set(title="(c) error across amplitudes", xlabel="|FP32 weight|", ylabel="error")
    axis.legend(loc="upper right")


def _draw_quantiles(axis: Any, rounding: Rounding) -> None:
    shares = (np.arange(QUANTILES) + 0.5) / QUANTILES
    normal = norm.ppf(shares)
    _, error, steps = rounding.sample
    for values, sd, color, label in (
        (error, rounding.errors.sd, BLUE, "error"),
        (steps, rounding.in_steps.sd, ORANGE, "error in steps"),
    ):
        axis.plot(normal, np.quantile(values, shares) / sd, ".", ms=3, color=color, label=label)
    axis.plot(normal, normal, color=GRAY, lw=0.8, label="normal")
    axis.set(title="(d) Q-Q", xlabel="quantile of the normal", ylabel="quantile of the error / sd")
    axis.legend(loc="upper left")


def _draw_steps(axis: Any, rounding: Rounding) -> None:
    steps, moments = rounding.sample[2], rounding.in_steps
    counts, _, _ = axis.hist(steps, BINS, (-0.6, 0.6), density=True, color=BLUE, alpha=0.5)
    axis.step([-0.6, -0.5, 0.5, 0.6], [0, 0, 1, 0], color=RED, label="uniform")
    x = np.linspace(-0.6, 0.6, 400)
    axis.plot(x, norm.pdf(x, moments.mean, moments.sd), color=ORANGE, label="fitted normal")
    axis.set(title="(e) error in steps of its channel", xlabel="steps", yticks=[])
    axis.set_ylim(0, 1.25 * max(1.4, float(np.max(counts))))
    axis.legend(loc="upper right")


@styled
def plot_outputs(noise: Sequence[Noise], images: int) -> Plot:
    """Draw the signal to noise ratio of each layer's output, in the order of the network.

    Args:
        noise: Layer by layer, the logits last.
        images: Number of images that it is over.
    """
    figure, axes = blank(10, 3.4)
    axis = axes[0, 0]
    remaining = dict(enumerate(noise))
    for group, (color, part) in _GROUPS.items():
        places = [place for place, row in remaining.items() if part in row.name]
        ratios = [remaining.pop(place).sqnr for place in places]
        axis.plot(places, ratios, ".", color=color, label=group)
    blocks = [place for place, row in enumerate(noise) if row.name.endswith(".qkv.q")]
    for number, place in enumerate(blocks):
        axis.axvline(place - 0.5, color="#d0d0d0", lw=0.6)
        axis.text(place, 1, f" {number}", transform=axis.get_xaxis_transform(), va="bottom", size=7)
    axis.set(xlabel="layer, in the order of the network; blocks are numbered", ylabel="SQNR, dB")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return plot(
        OUTPUTS,
        figure,
        f"Signal to quantization noise of each layer's output over {images} images, all layers"
        " before it in INT8 too. Below 0 dB noise would exceed the signal.",
    )
