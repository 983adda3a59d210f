"""Flags from the image alone: how it lies, whether it shows a chest, and its gray values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.core.flags import Flag
from cxrseg.runtime.core.preprocess import resize
from cxrseg.runtime.quality.features import GRID
from cxrseg.runtime.quality.gaussian import Gaussian
from cxrseg.runtime.quality.reference import Reference
from cxrseg.runtime.quality.rules import RULES, judge
from cxrseg.runtime.readers.polarity import INVERTED, polarity

TWICE_GAIN = 2.0
"""The limit of ``rotated`` and ``upside_down`` for an inverted image: both at once are rare."""

FAMILIAR = 10.0
"""Thumbnail distance up to which an image may be a chest X-ray that lies the wrong way."""

FEW_LEVELS = 32
"""Gray levels below which a narrow range is coarse, too. Files of 12 of 16 bits have more."""

_BLACK, _WHITE = 1 / 255, 254 / 255

Cells = NDArray[np.float64]


def image_flags(
    pixels: NDArray[np.float32],
    cells: Cells | None,
    mask: NDArray[np.uint8],
    reference: Reference | None,
) -> list[Flag]:
    """Judge how an image lies, and whether it shows a chest.

    Args:
        pixels: float32 [H, W] in [0, 1].
        cells: float64 [CELLS, CELLS] of `thumbnail`; None where there is nothing to see.
        mask: uint8 [GRID, GRID] of label values.
        reference: The model's quality reference, or None.
    """
    if cells is None:
        # Where no lung was found either, that is said.
        return [Flag("not_chest", RULES["thumbnail"].reason)] if mask.any() else []
    if reference is None:
        return []
    usual = reference.statistics.thumbnail
    return _wrong_way(pixels, cells, usual) or judge(
        "thumbnail", float(usual.distance(cells.ravel()))
    )


def _wrong_way(pixels: NDArray[np.float32], cells: Cells, usual: Gaussian) -> list[Flag]:
    """Find the way to lay the image that makes it most like a chest X-ray."""
    ways = [(turns, sign) for sign in (1, -1) for turns in range(4)]
    laid = np.stack([sign * np.rot90(cells, turns).ravel() for turns, sign in ways])
    distances = usual.distance(laid)
    gains = distances[0] - distances
    gain_limits = [_gain_limit(turns, sign) for turns, sign in ways]
    best = int((gains - gain_limits).argmax())
    turns, sign = ways[best]
    gain = float(gains[best])
    if gain <= gain_limits[best] or distances[best] > FAMILIAR:
        return []
    flags: list[Flag] = []
    if sign < 0:
        score = polarity(np.ascontiguousarray(np.rot90(resize(pixels, GRID), turns)))
        if score >= INVERTED:
            return []
        flags += judge("inverted", score)
    if turns:
        flags += judge("upside_down" if turns == 2 else "rotated", gain, gain_limits[best])
    return flags


def _gain_limit(turns: int, sign: int) -> float:
    return TWICE_GAIN if turns and sign < 0 else RULES["rotated"].limit


def gray_flags(pixels: NDArray[np.float32], mask: NDArray[np.uint8]) -> list[Flag]:
    """Judge the histogram of the pixels in the middle of each cell of the grid.

    Args:
        pixels: float32 [H, W] in [0, 1].
        mask: uint8 [GRID, GRID] of label values.
    """
    height, width = pixels.shape
    middle = 2 * np.arange(GRID) + 1
    samples = pixels[np.ix_(middle * height // (2 * GRID), middle * width // (2 * GRID))]
    low, high = (float(x) for x in np.percentile(samples, (1, 99)))
    dim = judge("low_contrast", high - low)
    if dim and high > low and np.unique(samples).size < FEW_LEVELS:
        return dim
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return []
    box = samples[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    clipped = {
        "lungs are fully black": float(np.mean(samples[mask > 0] <= _BLACK)),
        "chest is fully white": float(np.mean(box >= _WHITE)),
    }
    what, share = max(clipped.items(), key=lambda item: item[1])
    return judge("saturated", share, what=what)
