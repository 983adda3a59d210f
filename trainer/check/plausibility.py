"""What looks wrong about a mask: its size, its place, its sides, and what it covers."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Turn = tuple[bool, bool, bool]
"""Whether a mask is transposed, then turned upside down, then mirrored."""

AREA = (0.05, 0.65)
"""Share of the image that two lungs fill."""

LIKE_NEGATIVE = 0.45
"""From this share of the image on a mask is as large as its negative, or larger."""

MAX_BORDER = 0.25
"""Largest share of the image's border that lungs cover."""

MIN_HALF = 0.1
"""Least share of two lungs that each half of the image holds, left and right."""

MAX_CRUMBS = 0.02
"""Largest share of a lung that lies apart from its largest part, in parts below a tenth of it."""

MIN_CONTRAST = -0.2
"""Least contrast, see `_contrast`. Below it the mask covers what is bright."""

BETTER = 0.1
"""A mask that gains more contrast than this by a turn is taken for turned."""

_LARGE = 0.1
_SIDE = 64
_RING = np.ones((9, 9), np.uint8)
_WORDS = {
    (False, True, False): "upside down",
    (False, False, True): "mirrored",
    (False, True, True): "turned by 180 degrees",
}

ALL_LEFT = "it calls both lungs the left one (2)"
EXCHANGED = "the right lung (1) lies right of the left lung (2) in the image"
INVERTED = "what it leaves out fits the X-ray better: it may be inverted"


def oddities(
    labels: NDArray[np.uint8], pixels: NDArray[np.float32], is_map: bool
) -> tuple[str, ...]:
    """Say what looks wrong about a mask.

    Each limit lets at least 99 of 100 masks of public sets of adults pass, and 97 of 100 of
    children.

    Args:
        labels: uint8 [H, W] of 0, 1, 2, upright, neither empty nor full.
        pixels: float32 [H, W], the X-ray, upright.
        is_map: Whether the file tells the lungs apart itself.

    Returns:
        A few words for each reason, the most telling first; none where all is as usual.
    """
    union = labels > 0
    area = float(union.mean())
    found = _odd_fit(union, pixels, area)
    if not AREA[0] <= area <= AREA[1]:
        found.append("it fills much less or more of the image than lungs do")
    border = np.concatenate([union[0], union[-1], union[:, 0], union[:, -1]])
    if border.mean() > MAX_BORDER:
        found.append("it covers much of the image's border")
    if _least_half(union) < MIN_HALF:
        found.append("it lies in one half of the image")
    if is_map:
        found += _odd_sides(labels)
    return tuple(found)


def _least_half(mask: NDArray[np.bool_]) -> float:
    """Return the share of a mask in the half of the image, left or right, that has less."""
    halves = [int(half.sum()) for half in np.array_split(mask, 2, axis=1)]
    return min(halves) / max(1, sum(halves))


def _odd_sides(labels: NDArray[np.uint8]) -> list[str]:
    lungs = [labels == 1, labels == 2]
    right, left = (float(np.nonzero(lung)[1].mean()) if lung.any() else None for lung in lungs)
    found = []
    if right is not None and left is not None and right > left:
        found.append(EXCHANGED)
    if right is None and _least_half(lungs[1]) >= MIN_HALF:
        found.append(ALL_LEFT)
    if any(_crumbs(lung) > MAX_CRUMBS for lung in lungs if lung.any()):
        found.append("one lung lies in crumbs around the other")
    return found


def _crumbs(lung: NDArray[np.bool_]) -> float:
    """Return the share of a lung in its small parts."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(lung.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    return float(areas[areas < _LARGE * areas.sum()].sum() / areas.sum())


def _odd_fit(union: NDArray[np.bool_], pixels: NDArray[np.float32], area: float) -> list[str]:
    side = (_SIDE, _SIDE)
    image = np.asarray(cv2.resize(pixels, side, interpolation=cv2.INTER_AREA), np.float32)
    mask = cv2.resize(union.astype(np.float32), side, interpolation=cv2.INTER_AREA) > 0.5
    contrast = _contrast(mask, image)
    if area >= LIKE_NEGATIVE and _contrast(~mask, image) > contrast + BETTER:
        return [INVERTED]
    if contrast < MIN_CONTRAST:
        return ["it covers what is brighter than what surrounds it"]
    turns = [(False, True, False), (False, False, True), (False, True, True)]
    turns += [(True, *flips) for flips in ((False, False), *(turn[1:] for turn in turns))]
    gains = {turn: _contrast(_turned(mask, turn), image) - contrast for turn in turns}
    best = max(turns, key=lambda turn: gains[turn])
    if gains[best] > BETTER:
        return [f"it fits the X-ray better {_WORDS.get(best, 'turned by 90 degrees')}"]
    return []


def _turned(mask: NDArray[np.bool_], turn: Turn) -> NDArray[np.bool_]:
    transposed, flipped, mirrored = turn
    mask = mask.T if transposed else mask
    return mask[:: -1 if flipped else 1, :: -1 if mirrored else 1]


def _contrast(mask: NDArray[np.bool_], image: NDArray[np.float32]) -> float:
    """Return how much darker the X-ray is inside a mask than in a ring around it.

    In standard deviations of the gray values; 0 where there is no inside or no ring.
    """
    grown = cv2.dilate(np.ascontiguousarray(mask, np.uint8), _RING) > 0
    ring = grown & ~mask
    if not ring.any() or not mask.any():
        return 0.0
    return float((image[ring].mean() - image[mask].mean()) / (image.std() + 1e-6))
