"""What the quality flags look at: the image's thumbnail, and the outlines of its lungs.

Masks and gray values are looked at on a grid of `GRID` cells a side, whatever the image's size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.core.preprocess import FLAT, resize, window
from cxrseg.runtime.inference.postprocess import upsample

GRID = 64
"""Side of the grid on which masks and gray values are looked at."""

CELLS = 6
"""Side of the thumbnail by which a chest is told from other things and from a turned one."""

PARTS = ("size", "place across", "height", "width", "length", "smoothness")
"""What describes the shape of one lung."""

_UNCERTAIN = float(np.log(9))  # logit of a probability of 0.9
_ROUNDING = 1e-5
_FEW = 8  # cells that a lung needs to have a shape
_PER_LUNG = len(PARTS)


def thumbnail(pixels: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Reduce an image to `CELLS` x `CELLS` gray values of mean 0 and variance 1.

    A flat border of whatever gray is left out, as in `polarity`.

    Args:
        pixels: float32 [H, W], any linear gray scale.

    Returns:
        float64 [CELLS, CELLS]; None where there is nothing to see.
    """
    small = resize(pixels, GRID)
    # Rounding leaves traces in the average of one gray.
    if np.ptp(small) <= _ROUNDING * np.abs(small).max():
        return None
    span = FLAT * float(np.ptp(small))
    rows = np.flatnonzero(np.ptp(small, axis=1) > span)
    columns = np.flatnonzero(np.ptp(small, axis=0) > span)
    if rows.size < CELLS or columns.size < CELLS:
        return None
    content = small[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    cells = resize(window(resize(np.ascontiguousarray(content), GRID), 2, 98), CELLS)
    spread = float(cells.std())
    if spread == 0:
        return None
    return np.asarray((cells - cells.mean()) / spread, np.float64)


def lung_shape(lung: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """Describe one lung.

    Args:
        lung: uint8 [GRID, GRID] of 0 and 1.

    Returns:
        float64 [6]: logarithm of the share of the image, center across and down (0..1), logarithms
        of the standard deviations across and down (of the image's sides), and area / area of the
        convex hull. None for a lung of a few cells.
    """
    import cv2

    rows, columns = np.nonzero(lung)
    if rows.size < _FEW or np.ptp(rows) == 0 or np.ptp(columns) == 0:
        return None
    x, y = (columns + 0.5) / GRID, (rows + 0.5) / GRID
    hull = np.zeros_like(lung)
    cv2.fillConvexPoly(hull, cv2.convexHull(np.column_stack([columns, rows]).astype(np.int32)), 1)
    return np.array(
        [
            np.log(rows.size / lung.size),
            x.mean(),
            y.mean(),
            np.log(x.std()),
            np.log(y.std()),
            rows.size / np.count_nonzero(hull),
        ]
    )


def shape(mask: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """Describe both lungs of a grid mask, the right one first: float64 [12], or None.

    Args:
        mask: uint8 [GRID, GRID]: 1 = right, 2 = left lung.
    """
    parts = [lung_shape((mask == value).astype(np.uint8)) for value in (1, 2)]
    found = [part for part in parts if part is not None]
    return np.concatenate(found) if len(found) == len(parts) else None


def mirrored_shape(lungs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what `shape` would give for the mirrored mask, sides relabeled."""
    swapped = np.roll(lungs, _PER_LUNG)
    swapped[1::_PER_LUNG] = 1 - swapped[1::_PER_LUNG]
    return swapped


def asymmetry(
    cells: NDArray[np.float64], lungs: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Return what a mirror image has with the other sign: float64 [18 + 6 n].

    Args:
        cells: float64 [CELLS, CELLS] of `thumbnail`.
        lungs: n times float64 [12] of `shape`, of one image under several protocols.
    """
    halves = (cells - np.fliplr(cells))[:, : CELLS // 2].ravel()
    return np.concatenate([halves, *((x - mirrored_shape(x))[:_PER_LUNG] for x in lungs)])


def cut_off(mask: NDArray[np.uint8]) -> dict[str, float]:
    """Return side of the image -> share of it along which lungs are cut off, in [0, 1].

    Args:
        mask: uint8 [GRID, GRID] of label values.
    """
    sides = {"upper": mask[0], "lower": mask[-1], "left": mask[:, 0], "right": mask[:, -1]}
    return {name: float(np.count_nonzero(cells) / GRID) for name, cells in sides.items()}


def uncertainty(logits: NDArray[np.float32], mask: NDArray[np.uint8]) -> float:
    """Return how broad the uncertain band along the outlines is.

    Args:
        logits: float32 [n, GRID, GRID], one channel per label.
        mask: uint8 [GRID, GRID] of label values.

    Returns:
        Cells with a probability between 0.1 and 0.9, divided by the root of the lungs' cells.
    """
    uncertain = np.count_nonzero(np.abs(logits.max(axis=0)) < _UNCERTAIN)
    return float(uncertain / max(1, int(np.count_nonzero(mask))) ** 0.5)


def grid_logits(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Resize logits float32 [n, h, w] to the grid: float32 [n, GRID, GRID]."""
    return np.stack([upsample(channel, (GRID, GRID)) for channel in logits])
