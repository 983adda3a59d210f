"""Which color of a mask is which label, as a person sees it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.core.labels import LABELS
from cxrseg.runtime.core.strips import strips
from cxrseg.trainer.recipe import Color, ColorRecipe

BLACK: Color = (0, 0, 0)

TOLERANCE = 28.0
"""Largest distance of a pixel from its label's color in 8-bit RGB: 16 steps in each channel."""

FLAT = 2
"""Largest difference between neighbors in an area of one color."""

MAX_STRAY = 0.002
"""Largest share of pixels of other colors that fill areas or lie away from edges, in a mask."""

MAX_ODD = 0.5
"""Largest share of pixels of other colors at all: in noise every pixel lies at an edge."""

MAX_BLENDED = 0.001
"""The same where a blend of two labels looks like a third."""

EDGE = 0.015
"""How far a smoothed edge reaches, as a share of the longer side; as JPEG's blocks at least."""

_BLOCK = 8
_SAMPLES = 1_000_000

VISIBLE = 64
"""Least brightest channel of a color that is seen on black."""

MAX_COLORS = 8
"""Most values of a drawing that nothing has smoothed."""

_NEIGHBORS = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class Scheme:
    """What each color means.

    Attributes:
        colors: The colors, background first.
        values: The label value of each: 0 = background, 1, 2.
    """

    colors: tuple[Color, ...]
    values: tuple[int, ...]

    @property
    def tolerance(self) -> float:
        """Largest distance from a color that still counts as this color."""
        levels = np.array(self.colors, np.float64)
        closest = min(float(np.linalg.norm(a - b)) for a, b in combinations(levels, 2))
        return min(TOLERANCE, closest / 3)

    @property
    def blends_mislead(self) -> bool:
        """Whether a color between two others, as at a smoothed edge, looks like another lung."""
        levels, values = np.array(self.colors, np.float64), np.array(self.values)
        for a, b in combinations(range(len(levels)), 2):
            shares = np.linspace(0, 1, 33)[:, None]
            blends = shares * levels[a] + (1 - shares) * levels[b]
            nearest = np.linalg.norm(blends[:, None] - levels, axis=2).argmin(1)
            if not np.isin(values[nearest], (0, values[a], values[b])).all():
                return True
        return False


def told_scheme(told: ColorRecipe) -> Scheme:
    """Return the scheme of colors that a recipe tells."""
    named = [color for color in (told.lungs, told.right, told.left) if color is not None]
    grounds = told.background
    return Scheme((*grounds, *named), (*(0 for _ in grounds), *range(1, len(named) + 1)))


def own_scheme() -> Scheme:
    """Return the colors of the label masks that cxrseg-run writes."""
    own = {label.value: label.color for label in LABELS}
    return Scheme((BLACK, *own.values()), (0, *own))


def schemes_for(picture: NDArray[np.uint8]) -> Iterator[Scheme]:
    """Yield what the colors of a mask can mean that nobody told, the likeliest first.

    In this order: as cxrseg-run colors its masks; one color on black; in a gray picture half white
    = right lung and white = left lung.

    Args:
        picture: uint8 [H, W] or [H, W, 3].
    """
    if picture.ndim == 3:
        yield own_scheme()
    areas = picture[flat(picture)]
    areas = areas[:: max(1, len(areas) // _SAMPLES)]
    areas = areas[areas > VISIBLE - 1] if picture.ndim == 2 else areas[areas.max(1) >= VISIBLE]
    if not len(areas):
        return
    if picture.ndim == 3:
        yield Scheme((BLACK, _most_frequent(areas)), (0, 1))
        return
    top = int(areas.max())
    yield Scheme((BLACK, _gray(top)), (0, 1))
    yield Scheme((BLACK, _gray((top + 1) // 2), _gray(top)), (0, 1, 2))


def _gray(value: int) -> Color:
    return value, value, value


def _most_frequent(colors: NDArray[np.uint8]) -> Color:
    """Return the mean color of the fullest of 512 equal bins; uint8 [N, 3]."""
    coarse = (colors >> 5).astype(np.int32) @ np.array([64, 8, 1], np.int32)
    fullest = np.bincount(coarse, minlength=512).argmax()
    red, green, blue = (round(float(part)) for part in colors[coarse == fullest].mean(0))
    return red, green, blue


def flat(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell where a picture, uint8 [H, W] or [H, W, 3], has areas of one color: bool [H, W]."""
    found = np.ones(picture.shape[:2], np.bool_)
    # One channel after the other, for the memory of large masks.
    for channel in (picture,) if picture.ndim == 2 else np.moveaxis(picture, 2, 0):
        values = np.ascontiguousarray(channel)
        found &= cv2.morphologyEx(values, cv2.MORPH_GRADIENT, _NEIGHBORS) <= FLAT
    return found


@dataclass(frozen=True)
class Reading:
    """A mask as a scheme reads it.

    Attributes:
        labels: uint8 [H, W], each pixel the label of the nearest color.
        odd: Share of pixels that have none of the scheme's colors.
        stray: Share of those that fill an area of one color, or lie away from all edges.
    """

    labels: NDArray[np.uint8]
    odd: float
    stray: float

    @property
    def fits(self) -> bool:
        """Whether the other colors are those of edges alone."""
        return self.odd <= MAX_ODD and self.stray <= MAX_STRAY


def read_as(picture: NDArray[np.uint8], scheme: Scheme) -> Reading:
    """Read a mask, uint8 [H, W] or [H, W, 3], by a scheme."""
    labels, far = _nearest(picture, scheme)
    odd = float(far.mean())
    if not 0 < odd <= MAX_ODD:
        return Reading(labels, odd, odd)
    return Reading(labels, odd, float((far & (flat(picture) | _away(labels))).mean()))


def _nearest(
    picture: NDArray[np.uint8], scheme: Scheme
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return each pixel's label by the nearest color, and whether that is too far away."""
    levels, values = np.array(scheme.colors, np.int32), np.array(scheme.values, np.uint8)
    height, width = picture.shape[:2]
    labels, far = np.empty((height, width), np.uint8), np.empty((height, width), np.bool_)
    ramp = _distances(np.repeat(np.arange(256)[:, None], 3, axis=1), levels)
    for rows in strips(height, width):
        part = picture[rows]
        distances = _distances(part, levels) if part.ndim == 3 else ramp[part]
        labels[rows] = values[distances.argmin(-1)]
        far[rows] = distances.min(-1) > scheme.tolerance**2
    return labels, far


def _distances(colors: NDArray[Any], levels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the squared distances of colors [..., 3] from levels [N, 3]: [..., N]."""
    steps = [colors - level for level in levels]
    return np.stack([np.einsum("...i,...i", step, step) for step in steps], axis=-1)


def _away(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell which pixels lie farther from all edges of a label map than smoothing reaches."""
    reach = max(_BLOCK, round(EDGE * max(labels.shape)))
    # Of a large image a smaller copy will do.
    step = reach // _BLOCK
    side = 2 * (reach // step) + 1
    small, around = np.ascontiguousarray(labels[::step, ::step]), np.ones((side, side), np.uint8)
    away = cv2.dilate(small, around) == cv2.erode(small, around)
    rows, columns = (np.arange(length) // step for length in labels.shape)
    return np.asarray(away[np.ix_(rows, columns)])


def colors_of(picture: NDArray[np.uint8]) -> list[str] | None:
    """Name the colors of a drawing, the most frequent first; None for a photograph.

    Args:
        picture: uint8 [H, W] or [H, W, 3].

    Returns:
        Gray values, or colors like ``#ff0000``, that fill areas; at most eight.
    """
    areas = picture[flat(picture)]
    if len(areas) < picture.shape[0] * picture.shape[1] / 2:
        return None
    values, counts = np.unique(areas, axis=0, return_counts=True)
    order = [i for i in np.argsort(-counts) if counts[i] > MAX_STRAY * len(areas)]
    if not 0 < len(order) <= MAX_COLORS:
        return None
    if picture.ndim == 2:
        return [str(values[i]) for i in order]
    return [f"#{''.join(f'{part:02x}' for part in values[i])}" for i in order]
