"""Figure 3 of the paper, and one of the noise that INT8 brings to each layer's output."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cxrseg.benchmarks.harness.legacy_figures import (
    BLUE,
    GRAY,
    ORANGE,
    RED,
    Drawing,
    blank,
    drawing,
    styled,
)
from cxrseg.benchmarks.quantization.layers import LOGITS, Noise
from cxrseg.benchmarks.quantization.rounding import Rounding

BINS = 121
QUANTILES = 500


@styled
def draw_weights(rounding: Rounding) -> Drawing:
    """Draw the distribution of rounding errors of all weights, as the paper does, and more.

    Args:
        rounding: Measured rounding with errors.
    """
    from matplotlib.colors import LogNorm
    from scipy.stats import norm

    weight, error, steps = rounding.sample.astype(np.float64)
    errors, distances = rounding.errors, rounding.distances
    figure, axes = blank(10, 6.2, 2, 3)

    axis = axes[0, 0]
    reach = float(np.quantile(np.abs(error), 0.999)) or 1.0
    axis.hist(error, BINS, (-reach, reach), density=True, color=BLUE)
    x = np.linspace(-reach, reach, 400)
    axis.plot(x, norm.pdf(x, errors.mean, errors.sd), color=ORANGE, label="fitted normal")
    axis.set(title="(a) error", xlabel="INT8 minus FP32 weight", yticks=[])
    axis.locator_params(axis="x", nbins=5)
    axis.set_ylabel("density")
    axis.legend(loc="upper right")

    axis = axes[0, 1]
    reach = float(np.quantile(np.abs(weight), 0.9999)) or 1.0
    frame = (-reach, reach, -reach, reach)
    look = {"gridsize": 90, "norm": LogNorm(), "rasterized": True}
    axis.hexbin(weight, weight + error, extent=frame, cmap="Blues", **look)
    axis.plot([-reach, reach], [-reach, reach], color=RED, lw=0.7)
    axis.set(title="(b) correlation", xlabel="FP32 weight", ylabel="INT8 weight")
    axis.text(0.05, 0.92, f"r = {rounding.correlation:.6f}", transform=axis.transAxes)

    axis = axes[0, 2]
    amplitude = np.abs(weight)
    highest = float(np.quantile(amplitude, 0.999)) or 1.0
    extent = (0, highest, -float(np.abs(error).max()), float(np.abs(error).max()))
    axis.hexbin(amplitude, error, extent=extent, cmap="Blues", **look)
    axis.step(
        [0, *(min(each.largest, highest) for each in rounding.deciles)],
        [each.rms for each in (rounding.deciles[0], *rounding.deciles)],
        color=RED,
        label="RMS per tenth of the weights",
    )
    axis.set(title="(c) error across amplitudes", xlabel="|FP32 weight|", ylabel="error")
    axis.legend(loc="upper right")

    axis = axes[1, 0]
    shares = (np.arange(QUANTILES) + 0.5) / QUANTILES
    expected = norm.ppf(shares)
    axis.plot(
        expected, np.quantile(error, shares) / errors.sd, ".", ms=3, color=BLUE, label="error"
    )
    own = np.quantile(steps, shares) / rounding.in_steps.sd
    axis.plot(expected, own, ".", ms=3, color=ORANGE, label="error in steps")
    axis.plot(expected, expected, color=GRAY, lw=0.8, label="normal")
    axis.set(title="(d) Q-Q", xlabel="quantile of the normal", ylabel="quantile of the error / sd")
    axis.legend(loc="upper left")

    axis = axes[1, 1]
    counts, _, _ = axis.hist(steps, BINS, (-0.6, 0.6), density=True, color=BLUE, alpha=0.5)
    uniform = [(-0.6, 0), (-0.5, 0), (-0.5, 1), (0.5, 1), (0.5, 0), (0.6, 0)]
    axis.plot(*zip(*uniform, strict=True), color=RED, label="uniform")
    x = np.linspace(-0.6, 0.6, 400)
    fitted = norm.pdf(x, rounding.in_steps.mean, rounding.in_steps.sd)
    axis.plot(x, fitted, color=ORANGE, label="fitted normal")
    axis.set(title="(e) error in steps of its channel", xlabel="steps", yticks=[])
    axis.set_ylim(0, 1.25 * max(1.4, float(np.max(counts))))
    axis.legend(loc="upper right")

    axis = axes[1, 2]
    ratios = [each.sqnr if each.sqnr is not None else np.nan for each in rounding.layers]
    axis.plot(ratios, ".", color=BLUE, ms=4)
    axis.set(title="(f) weights, layer by layer", xlabel="layer", ylabel="SQNR, dB")
    return drawing(
        figure,
        f"Rounding of {rounding.weights:,} weights. (a) errors and the normal of the same mean and"
        f" spread (Kolmogorov-Smirnov distance {distances['normal']:.3f}); (b) INT8 against FP32;"
        " (c) errors by amplitude; (d) quantiles of the errors against those of a normal, on the"
        " line if they were normal; (e) errors in steps of their own channel (distance"
        f" {distances['steps_uniform']:.3f} from uniform, {distances['steps_normal']:.3f} from"
        " normal; the largest weight of each channel, which sets the step, has no error);"
        " (f) signal to quantization noise of each layer's weights.",
    )


@styled
def draw_outputs(noise: Sequence[Noise], images: int) -> Drawing:
    """Draw the signal to noise ratio of each layer's output, in the order of the network.

    Args:
        noise: Layer by layer, the logits last.
        images: Number of images that it is over.
    """
    figure, axes = blank(10, 3.4)
    axis = axes[0, 0]
    kinds: dict[str, tuple[str, Callable[[str], bool]]] = {
        "attention products": (RED, lambda name: ".matmul." in name),
        "encoder layers": (BLUE, lambda name: name.startswith("image_encoder")),
        "decoder layers": (ORANGE, lambda name: name.startswith("mask_decoder")),
        "logits": ("black", lambda name: name == LOGITS),
    }
    left = dict(enumerate(noise))
    for title, (color, fits) in kinds.items():
        own = {i: each for i, each in left.items() if fits(each.name)}
        left = {i: each for i, each in left.items() if i not in own}
        axis.plot(list(own), [e.sqnr for e in own.values()], ".", color=color, label=title)
    blocks = [i for i, each in enumerate(noise) if each.name.endswith(".qkv.q")]
    for number, place in enumerate(blocks):
        axis.axvline(place - 0.5, color="#d0d0d0", lw=0.6)
        axis.text(place, 1, f" {number}", transform=axis.get_xaxis_transform(), va="bottom", size=7)
    axis.set(xlabel="layer, in the order of the network; blocks are numbered", ylabel="SQNR, dB")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return drawing(
        figure,
        f"Signal to quantization noise of each layer's output over {images} images, all layers"
        " before it in INT8 too. Below 0 dB noise would exceed the signal.",
    )
