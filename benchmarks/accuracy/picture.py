"""A picture of the images on which a model does worst, to look at."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrseg.benchmarks.accuracy.scoring import Score, read_reference
from cxrseg.benchmarks.accuracy.tables import problem
from cxrseg.benchmarks.harness.plots import BLUE, ORANGE, blank, plot, styled
from cxrseg.benchmarks.harness.result import Plot
from cxrseg.benchmarks.harness.samples import Sample
from cxrseg.runtime.readers import read
from cxrseg.runtime.segmenter import Segmenter

WORST = "worst"
"""Name of the plot."""

COLUMNS = 5
"""Images beside each other."""

MAX_SIDE = 512
"""Longer side at most of what is drawn or compared pixel by pixel: the paper's image size."""

REFERENCE, PREDICTION = BLUE, ORANGE


def reduced(image: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return an image whose longer side is at most `MAX_SIDE`, by averaging areas."""
    height, width = image.shape
    scale = MAX_SIDE / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), image.dtype)


@styled
def draw_worst(segmenter: Segmenter, images: Sequence[tuple[Score, Sample]]) -> Plot:
    """Segment images once more and draw them with the outlines of model and reference.

    Args:
        segmenter: The model that gave the scores.
        images: At least one image with its score, in the order of drawing.

    Raises:
        CxrsegError: An image or mask cannot be read.
    """
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    figure, axes = blank(2.6 * columns, 3 * rows, rows, columns)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (score, sample) in zip(axes.flat, images, strict=False):
        radiograph = read(sample.image)
        prediction = segmenter.segment(radiograph, str(sample.image)).mask != 0
        truth = read_reference(sample.mask, radiograph).union
        axis.imshow(reduced(radiograph.pixels), cmap="gray", vmin=0, vmax=1)
        for mask, color in ((prediction, PREDICTION), (truth, REFERENCE)):
            shares = reduced(mask.astype(np.float64))
            if shares.min() < 0.5 < shares.max():
                axis.contour(shares, levels=[0.5], colors=color, linewidths=0.8)
        words = (f"Dice {score.union.dice:.4f}, HD95 {score.union.hd95_px:.1f} px", problem(score))
        axis.set_title("\n".join([score.image[-40:], *filter(None, words)]), fontsize=6)
    return plot(
        WORST,
        figure,
        f"The {len(images)} images of the lowest Dice, with the outlines of the model (orange) and"
        " of the reference (blue).",
        shows_patients=True,
    )
