"""How much two masks overlap, and how far their outlines lie apart.

HD95, ASSD and what an empty mask counts for follow Maier-Hein, Reinke et al., "Metrics reloaded"
(Nature Methods 2024), NSD follows Nikolov et al. (JMIR 2021;23(7):e26151). On masks that are not
empty they equal MONAI's, which need PyTorch and give NaN or infinity on empty ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def dice(prediction: Mask, truth: Mask) -> float:
    """Return the Dice coefficient 2 |A and B| / (|A| + |B|).

    Args:
        prediction: bool [H, W].
        truth: bool [H, W].

    Returns:
        A value in [0, 1]; 1.0 where both masks are empty.

    Raises:
        ValueError: The shapes differ, or a mask is not boolean.
    """
    both, total = _overlap(prediction, truth)
    return 2 * both / total if total else 1.0


def iou(prediction: Mask, truth: Mask) -> float:
    """Return intersection over union |A and B| / |A or B|, the Jaccard index.

    Args:
        prediction: bool [H, W].
        truth: bool [H, W].

    Returns:
        A value in [0, 1], never above the Dice coefficient; 1.0 where both masks are empty.

    Raises:
        ValueError: The shapes differ, or a mask is not boolean.
    """
    both, total = _overlap(prediction, truth)
    return both / (total - both) if total else 1.0


def _overlap(prediction: Mask, truth: Mask) -> tuple[int, int]:
    """Return |A and B| and |A| + |B|."""
    check_masks(prediction, truth)
    both = int(np.count_nonzero(prediction & truth))
    return both, int(np.count_nonzero(prediction)) + int(np.count_nonzero(truth))


def check_masks(prediction: Mask, truth: Mask) -> None:
    """Refuse two masks that cannot be compared.

    Args:
        prediction: bool [H, W].
        truth: bool [H, W].

    Raises:
        ValueError: The shapes differ, or a mask is not boolean.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"masks of shapes {prediction.shape} and {truth.shape}")
    if prediction.dtype != np.bool_ or truth.dtype != np.bool_:
        raise ValueError(f"masks of types {prediction.dtype} and {truth.dtype}, not bool")


@dataclass(frozen=True)
class Surfaces:
    """How far two outlines lie apart; distances run from pixel center to pixel center.

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
    from scipy.spatial import KDTree

    check_masks(prediction, truth)
    if tolerance < 0:
        raise ValueError(f"tolerance {tolerance}")
    first, second = (np.argwhere(outline(mask)) for mask in (prediction, truth))
    if not len(first) and not len(second):
        return Surfaces(0.0, 0.0, 1.0)
    if not len(first) or not len(second):
        diagonal = float(np.hypot(*prediction.shape))
        return Surfaces(diagonal, diagonal, 0.0)
    forth, back = KDTree(second).query(first)[0], KDTree(first).query(second)[0]
    both = np.concatenate([forth, back])
    return Surfaces(
        hd95=max(float(np.percentile(distances, 95)) for distances in (forth, back)),
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
