"""Distances between the outlines of two masks.

The outline of a mask are its pixels with a background pixel above, below, left or right; outside
the image all is background. Distances run from pixel center to pixel center. HD95, ASSD and what
an empty mask counts for follow Maier-Hein, Reinke et al., "Metrics reloaded" (Nature Methods
2024), NSD follows Nikolov et al. (JMIR 2021;23(7):e26151). On masks that are not empty they equal
MONAI's ``compute_hausdorff_distance``, ``compute_average_surface_distance`` and
``compute_surface_dice``, which need PyTorch and SciPy, and give NaN or infinity on empty ones;
OpenCV's exact distance transform is there wherever the runtime is.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrseg.benchmarks.accuracy.metrics import Mask, check_masks


@dataclass(frozen=True)
class Surfaces:
    """How far two outlines lie apart.

    Attributes:
        hd95: Hausdorff distance at the 95th percentile, px: the larger of the two directed
            percentiles, from the first outline to the second and back.
        assd: Average symmetric surface distance, px: the mean over the pixels of both outlines
            of the distance to the other one.
        nsd: Normalized surface Dice in [0, 1]: the share of the pixels of both outlines that lie
            within the tolerance of the other one.
    """

    hd95: float
    assd: float
    nsd: float


def compare_surfaces(prediction: Mask, truth: Mask, tolerance: float) -> Surfaces:
    """Compare the outlines of two masks.

    Two empty masks agree perfectly: distances 0, NSD 1. Where one alone is empty no distance is
    defined; the image's diagonal stands in, which no distance exceeds, and NSD is 0. Thus a lung
    that was not found worsens the mean instead of dropping out of it.

    Args:
        prediction: bool [H, W].
        truth: bool [H, W].
        tolerance: Largest distance that counts as agreement for NSD, px.

    Returns:
        Finite values.

    Raises:
        ValueError: The shapes differ, a mask is not boolean, or `tolerance` is negative.
    """
    check_masks(prediction, truth)
    if tolerance < 0:
        raise ValueError(f"tolerance {tolerance}")
    found, drawn = bool(prediction.any()), bool(truth.any())
    if not found and not drawn:
        return Surfaces(0.0, 0.0, 1.0)
    if not found or not drawn:
        diagonal = float(np.hypot(*prediction.shape))
        return Surfaces(diagonal, diagonal, 0.0)

    # Nothing of either outline lies outside their common frame.
    x, y, width, height = cv2.boundingRect((prediction | truth).astype(np.uint8))
    frame = (slice(y, y + height), slice(x, x + width))
    first, second = outline(prediction[frame]), outline(truth[frame])
    there, back = _distances(first, second), _distances(second, first)
    both = np.concatenate([there, back])
    return Surfaces(
        hd95=max(float(np.percentile(each, 95)) for each in (there, back)),
        assd=float(both.mean()),
        nsd=np.count_nonzero(both <= tolerance) / both.size,
    )


def outline(mask: Mask) -> Mask:
    """Return the pixels of a mask that have a background pixel above, below, left or right.

    Args:
        mask: bool [H, W]; outside of it is background.

    Returns:
        bool [H, W].
    """
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inner = cv2.erode(
        mask.astype(np.uint8), cross, borderType=cv2.BORDER_CONSTANT, borderValue=(0,)
    )
    return np.asarray(mask & (inner == 0), dtype=np.bool_)


def _distances(of: Mask, other: Mask) -> NDArray[np.float64]:
    """Return the distance, px, of each pixel of the outline `of` to the nearest of another."""
    away = cv2.distanceTransform((~other).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # The square of a distance between pixels is an integer, so float32's rounding can be undone:
    # it differs from run to run, and a distance equal to the tolerance must count as within it.
    return np.asarray(np.sqrt(np.rint(np.square(away[of], dtype=np.float64))))
