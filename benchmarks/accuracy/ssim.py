"""``cxrseg-bench ssim``: where on the image the masks of one model are nearer to the truth.

It makes figure 2 of the paper, with a table over all images beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cxrseg.benchmarks.accuracy.accuracy import ScoringOptions
from cxrseg.benchmarks.accuracy.intervals import Values, bootstrap_interval
from cxrseg.benchmarks.accuracy.metrics import Mask, check_masks
from cxrseg.benchmarks.accuracy.picture import reduced
from cxrseg.benchmarks.accuracy.scoring import read_reference
from cxrseg.benchmarks.accuracy.summary import grouped, rounded
from cxrseg.benchmarks.harness.parameters import PATH, argument, option
from cxrseg.benchmarks.harness.plots import blank, plot, styled
from cxrseg.benchmarks.harness.result import Plot, Result, Table
from cxrseg.benchmarks.harness.runner import benchmark
from cxrseg.benchmarks.harness.samples import (
    Sample,
    csv_facts,
    grouping,
    model_facts,
    read_samples,
)
from cxrseg.runtime.readers import read
from cxrseg.runtime.segmenter import Segmenter

MAPS = "maps"
"""Name of the plot."""

ROWS = 4
"""Images in the plot, from the largest gain to the largest loss."""

SIGMA = 1.5
"""Standard deviation of the Gaussian window, pixels, as published; it ends after 11 pixels."""

DEFINITIONS = (
    "SSIM (Wang et al. 2004: Gaussian window of 11 px, sigma 1.5 px) of the mask of both lungs with"
    " the reference mask, at the size of each image, at most 512 px a side; mean over the image,"
    " then over images. Where both masks are empty it is 1, so that the background lifts it: the"
    " difference tells more than the level. CI: bootstrap over patients."
)

_HEADER = [
    *("SSIM, images of", "n", "patients", "ours", "baseline", "difference", "95 % CI"),
    *("better", "worse"),
]


@dataclass(frozen=True)
class Options(ScoringOptions):
    """Options of ``cxrseg-bench ssim``."""

    model: Path = argument(type=PATH)
    baseline: Path = argument(type=PATH)
    xrays: bool = option(
        "--xrays",
        default=False,
        is_flag=True,
        help="With -o: also draw four images with their maps. They show patients: store them like"
        " X-rays.",
    )


@dataclass(frozen=True)
class Similarity:
    """Mean structural similarity of two models' masks with the reference of one image.

    Attributes:
        sample: The image.
        ours: Mean over the map of the first model, at most 1.
        baseline: The same of the second.
    """

    sample: Sample
    ours: float
    baseline: float

    @property
    def difference(self) -> float:
        """Ours minus baseline."""
        return self.ours - self.baseline


@dataclass(frozen=True)
class Maps:
    """What the plot shows of one image, everything at most 512 pixels a side.

    Attributes:
        radiograph: float32 [h, w] in [0, 1].
        truth: The reference mask, float64 [h, w] in [0, 1].
        ours: Map of the first model, float64 [h, w], at most 1.
        baseline: The same of the second.
    """

    radiograph: NDArray[np.floating]
    truth: NDArray[np.floating]
    ours: Values
    baseline: Values


@benchmark("ssim", Options, plots=(MAPS,))
def ssim(options: Options) -> Result:
    """Compare two models by the structural similarity of their masks with the truth.

    MODEL and BASELINE are files written by cxrseg-export. SSIM weighs form: it falls where an
    outline runs differently, around that place alone. A map of it tells where one model is nearer
    to the reference mask than the other.

    \b
    Examples
      cxrseg-bench ssim ward7.onnx decoder-only.onnx --data pairs.csv
      cxrseg-bench ssim int8.onnx fp32.onnx --data pairs.csv -o ssim.json --xrays
    """
    samples = read_samples(options.data, options)
    by = grouping(samples, options)
    ours, baseline = (
        Segmenter(path, options.device, options.threads, options.protocol)
        for path in (options.model, options.baseline)
    )
    progress = tqdm(samples, unit="image", disable=None)
    found = [similarity(ours, baseline, sample) for sample in progress]
    groups = grouped(found, [sample.row[by] if by else "" for sample in samples], by)
    figures = {name: summarize(members, options.seed) for name, members in groups.items()}
    names = (options.model.name, options.baseline.name)
    shown = chosen(found) if options.xrays else []
    maps = [(result, maps_of(ours, baseline, result.sample)) for result in shown]
    return Result(
        title=f"{names[0]} against {names[1]} on {options.data.name}, split {options.split}",
        data={
            "models": [
                model_facts(segmenter.path, segmenter.model) for segmenter in (ours, baseline)
            ],
            "settings": {"protocol": options.protocol, "provider": ours.model.provider},
            "dataset": csv_facts(options.data, options, len(samples)),
            "groups": figures,
        },
        tables=[Table(_HEADER, [_cells(name, figures[name]) for name in figures])],
        plots=[draw(maps, names)] if maps else [],
        definitions=DEFINITIONS,
        images=[
            rounded(
                {
                    "image": result.sample.name,
                    **({by: result.sample.row[by]} if by else {}),
                    "ours": result.ours,
                    "baseline": result.baseline,
                }
            )
            for result in found
        ],
    )


def similarity(ours: Segmenter, baseline: Segmenter, sample: Sample) -> Similarity:
    """Compare the masks of two models with the reference of one image.

    Raises:
        CxrsegError: The image or mask cannot be read, or their sizes differ.
    """
    maps = maps_of(ours, baseline, sample)
    return Similarity(sample, float(maps.ours.mean()), float(maps.baseline.mean()))


def maps_of(ours: Segmenter, baseline: Segmenter, sample: Sample) -> Maps:
    """Segment an image with both models and compare the lungs of each with the reference.

    Raises:
        CxrsegError: The image or the mask cannot be read.
    """
    radiograph = read(sample.image)
    truth = read_reference(sample.mask, radiograph).union
    masks = [
        segmenter.segment(radiograph, str(sample.image)).mask != 0 for segmenter in (ours, baseline)
    ]
    return Maps(
        reduced(radiograph.pixels),
        reduced(truth.astype(np.float64)),
        *(similarity_map(mask, truth) for mask in masks),
    )


def similarity_map(prediction: Mask, truth: Mask) -> Values:
    """Return the structural similarity of two masks around every pixel.

    Args:
        prediction: bool [H, W].
        truth: bool [H, W].

    Returns:
        float64 [h, w], at most 1, which means equal; the size is that of `reduced`.

    Raises:
        ValueError: The shapes differ, or a mask is not boolean.
    """
    from skimage import metrics

    check_masks(prediction, truth)
    first, second = (reduced(mask.astype(np.float64)) for mask in (prediction, truth))
    compare: Any = metrics.structural_similarity  # it has no type hints
    _, found = compare(
        first,
        second,
        data_range=1.0,
        gaussian_weights=True,
        sigma=SIGMA,
        use_sample_covariance=False,
        full=True,
    )
    return np.asarray(found, np.float64)


def summarize(found: Sequence[Similarity], seed: int) -> dict[str, Any]:
    """Return the figures of a group of images as plain data.

    Args:
        found: The images, at least one.
        seed: Seed of the bootstrap.
    """
    differences = np.array([result.difference for result in found])
    patients = [result.sample.patient for result in found]
    return rounded(
        {
            "images": len(found),
            "patients": len({*patients}),
            "ours": float(np.mean([result.ours for result in found])),
            "baseline": float(np.mean([result.baseline for result in found])),
            "difference": float(differences.mean()),
            "ci95": bootstrap_interval(differences, patients, seed),
            "better": int(np.count_nonzero(differences > 0)),
            "worse": int(np.count_nonzero(differences < 0)),
        }
    )


def _cells(name: str, group: dict[str, Any]) -> list[str]:
    return [
        name,
        str(group["images"]),
        str(group["patients"]),
        f"{group['ours']:.4f}",
        f"{group['baseline']:.4f}",
        f"{group['difference']:+.5f}",
        "-" if group["ci95"] is None else "{:+.5f} to {:+.5f}".format(*group["ci95"]),
        str(group["better"]),
        str(group["worse"]),
    ]


def chosen(found: Sequence[Similarity], count: int = ROWS) -> list[Similarity]:
    """Return at most `count` images spread evenly from the largest gain to the largest loss."""
    ranked = sorted(found, key=lambda result: (-result.difference, result.sample.name))
    return [ranked[round(i)] for i in np.linspace(0, len(ranked) - 1, min(count, len(ranked)))]


@styled
def draw(rows: Sequence[tuple[Similarity, Maps]], names: tuple[str, str]) -> Plot:
    """Draw images with the maps of both models and their difference, one row each.

    Args:
        rows: The images, at least one.
        names: Names of our model and of the baseline.
    """
    from matplotlib.colors import LinearSegmentedColormap

    titles = ("input", "ground truth", f"SSIM of\n{names[1]}", f"SSIM of\n{names[0]}", "difference")
    colors = LinearSegmentedColormap.from_list("better", ["#c00000", "#ffffff", "#008000"])
    figure, axes = blank(10, 2.1 * len(rows) + 1, len(rows), len(titles))
    # A single pixel must not fade all others.
    limit = min(0.5, max(1e-3, *(np.abs(maps.ours - maps.baseline).max() for _, maps in rows)))
    gray = {"cmap": "gray", "vmin": 0, "vmax": 1}
    similar = {"cmap": "viridis", "vmin": 0, "vmax": 1}
    change = {"cmap": colors, "vmin": -limit, "vmax": limit}
    for line, (result, maps) in zip(axes, rows, strict=True):
        planes = (
            (maps.radiograph, gray),
            (maps.truth, gray),
            (maps.baseline, similar),
            (maps.ours, similar),
            (maps.ours - maps.baseline, change),
        )
        images = []
        for axis, (plane, look) in zip(line, planes, strict=True):
            images.append(axis.imshow(plane, **look, interpolation="nearest"))
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
        if 0 < maps.truth.mean() < 1:
            line[4].contour(maps.truth, levels=[0.5], colors="#b0b0b0", linewidths=0.4)
        line[2].set_xlabel(f"mean {result.baseline:.4f}")
        line[3].set_xlabel(f"mean {result.ours:.4f}")
        line[4].set_xlabel(f"mean {result.difference:+.5f}")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    for column, shared, ticks in (
        (3, axes[:, 2:4], (0, 0.5, 1)),
        (4, axes[:, 4], (-limit, 0, limit)),
    ):
        bar = figure.colorbar(images[column], ax=shared, location="bottom", aspect=30, pad=0.01)
        bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    return plot(
        MAPS,
        figure,
        "Structural similarity with the reference mask, around each pixel, and its difference:"
        f" green where {names[0]} is nearer to the reference than {names[1]}, red where it is"
        " farther. Images spread evenly from the largest gain to the largest loss.",
        shows_patients=True,
    )
