"""Telling from the pixels of a chest X-ray whether dense tissue is bright in it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.core.preprocess import FLAT, resize, window

INVERTED = -0.3
"""A `polarity` below this says that dense tissue is dark."""

_SIDE = 64
_CELLS = 8

# Left half, the right one mirrors it. Ridge regression of +1 for dense bright and -1 for dense
# dark on thumbnails of chest X-rays (training images alone), cropped and bordered at random.
_LEFT = (
    (6, -38, 14, 33),
    (-8, -68, -8, 6),
    (4, 7, -33, -26),
    (-12, -14, -48, 16),
    (-25, -9, -35, 47),
    (-14, -5, -5, 69),
    (-27, -48, 66, 155),
    (14, -31, 20, -2),
)
_WEIGHTS = np.hstack([_LEFT, np.fliplr(_LEFT)]) / 1000


def polarity(pixels: NDArray[np.float32]) -> float:
    """Return near 1 for a frontal chest with dense tissue bright, near -1 for its negative.

    The lungs are compared with the mediastinum and the upper abdomen in a thumbnail of the
    content; a flat border of whatever gray does not count.

    Args:
        pixels: float32 [H, W] in [0, 1], upright.

    Returns:
        The score; 0 where there is nothing to see.
    """
    small = resize(pixels, _SIDE)
    span = FLAT * float(np.ptp(small))
    rows = np.flatnonzero(np.ptp(small, axis=1) > span)
    columns = np.flatnonzero(np.ptp(small, axis=0) > span)
    if rows.size == 0 or columns.size == 0:
        return 0.0
    content = small[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if min(content.shape) < _CELLS:
        return 0.0
    cells = resize(window(resize(np.ascontiguousarray(content), _SIDE), 2, 98), _CELLS)
    spread = float(cells.std())
    if spread == 0:
        return 0.0
    return float(np.sum(_WEIGHTS * (cells - cells.mean())) / spread)
