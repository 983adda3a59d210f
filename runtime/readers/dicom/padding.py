"""Pixel padding (PS3.3 C.7.5.1.1.2): which pixels lie outside the image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cxrseg.runtime.readers.dicom.tables import numbers

STEP = 0.05
"""Padding ends with a step of more than this share of the image's span; tissue does not."""


def padding_range(dataset: Dataset, dtype: np.dtype[Any]) -> tuple[int, int] | None:
    """Return the smallest and largest value of padding, None where the file names none."""
    value = numbers(dataset, "PixelPaddingValue")
    limit = numbers(dataset, "PixelPaddingRangeLimit")
    if not value or not np.isfinite([*value[:1], *limit[:1]]).all():
        return None
    # A negative value may be told without its sign, and the other way round.
    ends = np.array([value[0], *limit[:1]]).astype(np.int64).astype(dtype)
    return int(ends.min()), int(ends.max())


def at_border(stored: NDArray[Any], low: int, high: int) -> NDArray[np.bool_] | None:
    """Return the pixels in a range of values that are connected with the image's border.

    The same value inside is tissue: a saturated mediastinum, or lungs without a gray value left.

    Args:
        stored: [H, W], any integer type.
        low: Smallest value.
        high: Largest value.

    Returns:
        bool [H, W], or None where there are no such pixels, or no others.
    """
    import cv2

    inside = (stored >= low) & (stored <= high)
    if not inside.any() or inside.all():
        return None
    # A frame around the image connects all of its border.
    height, width = stored.shape
    framed = np.ones((height + 2, width + 2), np.uint8)
    framed[1:-1, 1:-1] = inside
    cv2.floodFill(framed, None, (0, 0), 2)
    outside: NDArray[np.bool_] = framed[1:-1, 1:-1] == 2
    return outside if outside.any() and not outside.all() else None


def without_tissue(
    outside: NDArray[np.bool_], stored: NDArray[Any], span: float
) -> NDArray[np.bool_]:
    """Return `outside` without regions that end as saturated tissue does, in a smooth slope.

    Args:
        outside: bool [H, W], pixels with the padding's value.
        stored: [H, W], the values.
        span: Difference of the largest and smallest of the other values.
    """
    import cv2

    count, regions = cv2.connectedComponents(outside.view(np.uint8), connectivity=4)
    edges, sharp = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for a, b in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        at = outside[a] != outside[b]
        # Of the two pixels at an edge one has a region, the other 0.
        region = regions[a][at] + regions[b][at]
        step = np.abs(stored[a][at].astype(np.int64) - stored[b][at].astype(np.int64))
        edges += np.bincount(region, minlength=count)
        sharp += np.bincount(region, step > STEP * span, minlength=count).astype(np.int64)
    is_padding = 2 * sharp > edges
    is_padding[0] = False
    return np.asarray(is_padding[regions])
