"""Structural similarity of two masks, pixel by pixel (Wang et al. 2004)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrseg.benchmarks.accuracy.metrics import Mask, check_masks
from cxrseg.benchmarks.accuracy.scoring import read_reference
from cxrseg.benchmarks.harness.legacy_samples import Case
from cxrseg.runtime.core.radiograph import Radiograph
from cxrseg.runtime.readers import read
from cxrseg.runtime.segmenter import Segmenter

GRID = 512
"""Longer side at most of the masks that are compared, pixels: the paper's size. Larger ones are
reduced, so that the window covers as much of a lung on every image."""

SIGMA = 1.5
"""Standard deviation of the Gaussian window, pixels, as published; it ends after 11 pixels."""

Map = NDArray[np.float64]


@dataclass(frozen=True)
class Similarity:
    """Mean structural similarity of two models' masks with the reference of one image.

    Attributes:
        case: The image.
        group: Its value in the grouping column; empty without one.
        ours: Mean over the map of the first model, at most 1.
        baseline: The same of the second.
    """

    case: Case
    group: str
    ours: float
    baseline: float

    @property
    def difference(self) -> float:
        """Ours minus baseline."""
        return self.ours - self.baseline


@dataclass(frozen=True)
class Maps:
    """What the figure shows of one image, everything at most `GRID` pixels a side.

    Attributes:
        radiograph: float32 [h, w] in [0, 1].
        truth: The reference mask, float64 [h, w] in [0, 1].
        ours: Map of the first model, float64 [h, w], at most 1.
        baseline: The same of the second.
    """

    radiograph: NDArray[np.float32]
    truth: Map
    ours: Map
    baseline: Map


def reduced(image: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return an image whose longer side is at most `GRID`, by averaging areas."""
    import cv2

    height, width = image.shape
    scale = GRID / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), image.dtype)


def similarity_map(prediction: Mask, truth: Mask) -> Map:
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

    compare: Any = metrics.structural_similarity  # it has no type hints
    check_masks(prediction, truth)
    first, second = (reduced(each.astype(np.float64)) for each in (prediction, truth))
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


def maps_of(ours: Segmenter, baseline: Segmenter, case: Case) -> Maps:
    """Segment an image with both models and compare the lungs of each with the reference.

    Args:
        ours: The first model.
        baseline: The second.
        case: The image with its reference mask.

    Raises:
        CxrsegError: The image or the mask cannot be read.
    """
    radiograph = read(case.image)
    truth = read_reference(case.mask, radiograph.size).union

    def found(segmenter: Segmenter, image: Radiograph) -> Map:
        return similarity_map(segmenter.segment(image, str(case.image)).mask != 0, truth)

    return Maps(
        radiograph=np.asarray(reduced(radiograph.pixels), np.float32),
        truth=np.asarray(reduced(truth.astype(np.float64)), np.float64),
        ours=found(ours, radiograph),
        baseline=found(baseline, radiograph),
    )


def similarities(
    ours: Segmenter, baseline: Segmenter, cases: Iterable[Case], by: str | None = None
) -> Iterator[Similarity]:
    """Compare the masks of two models with references.

    Args:
        ours: The first model.
        baseline: The second.
        cases: Images with masks.
        by: Column whose value becomes the group.

    Yields:
        One result per case, in order.

    Raises:
        CxrsegError: An image or mask cannot be read, or their sizes differ.
    """
    for case in cases:
        maps = maps_of(ours, baseline, case)
        group = case.row[by] if by else ""
        yield Similarity(case, group, float(maps.ours.mean()), float(maps.baseline.mean()))
