"""When not to trust a mask: flags from the look of an image and the shape of its lungs.

Two distances carry most of it, both Mahalanobis distances ("On the generalised distance in
statistics", 1936) to frontal chest X-rays on which the model was trained: that of a thumbnail, in
each way that it can lie, and that of the size, place and form of both lungs. They are measured in
standard deviations of those X-rays, so they keep their meaning when the model is replaced. What
they compare with is in `quality_table`, which ``cxrseg-bench quality-fit`` writes anew, together
with the limits of all that depends on the model's outlines.

Nothing was chosen on test images. ``cxrseg-bench quality`` tells how often each flag is raised.

Masks and gray values are looked at on a grid of `GRID` cells a side, whatever the image's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime import quality_table
from cxrseg.runtime.flags import Flag
from cxrseg.runtime.labels import Label
from cxrseg.runtime.postprocess import enlarge, label_mask
from cxrseg.runtime.preprocess import FLAT, resize, window
from cxrseg.runtime.readers.polarity import INVERTED, polarity

GRID = 64
"""Side of the grid on which masks and gray values are looked at."""

CELLS = 6
"""Side of the thumbnail by which a chest is told from other things and from a turned one."""

MIN_LUNG = 0.01
"""Share of the image below which a lung counts as missing."""

TURNED_GAIN = 0.7
"""An image lies wrongly if another way brings it nearer to chest X-rays by more than this."""

TWICE_GAIN = 2.0
"""The same for an image that is turned and inverted at once, which is rare."""

FAMILIAR = 10.0
"""Thumbnail distance up to which an image may be a chest X-ray that lies wrongly."""

STRANGE_LOOK = 15.0
"""Thumbnail distance above which an image shows no chest. Bedside X-rays reach 14, noise has 16."""

LEAST: Mapping[str, float] = {
    "strange": 11.5,
    "shape": 8.5,
    "mirror": 10.0,
    "cropped_upper": 0.5,
    "cropped_lower": 0.2,
    "cropped_side": 0.2,
    "unsure": 3.5,
}
"""Limits that no fit falls below; they hold where there is no fit for a protocol.

- strange: `Oddity.strange`, above which an image is no frontal chest X-ray.
- shape: `Oddity.shape`, above which the outlines are not those of two lungs.
- mirror: `Oddity.mirror`, above which the image seems to be mirrored.
- cropped_upper, cropped_lower, cropped_side: share of that side of the image along which the lungs
  may be cut off. The upper side often cuts the tips of a child's lungs, harmlessly.
- unsure: uncertain band of the outlines, as a multiple of the usual one.
"""

PLAUSIBLE = 8.5
"""Shape distance up to which mirrored outlines may be those of two lungs."""

BROADEST = 4.0
"""Uncertain band, as a multiple of the usual one, from which more makes an image no stranger."""

FRAGMENTED = 0.15
"""Share of a lung outside its largest piece."""

LOW_CONTRAST = 24 / 255
"""Range of the middle 98 % of gray values, of 1, below which an image of few levels is dim."""

FEW_LEVELS = 32
"""Gray levels below which a narrow range is coarse, too. Files of 12 of 16 bits have more."""

SATURATED = 0.25
"""Share of the lungs that may be fully black, or of the box around them that may be fully white."""

TINY = 96
"""Shorter side in pixels below which the outlines are coarser than a rib."""

_BLACK, _WHITE = 1 / 255, 254 / 255
_UNCERTAIN = float(np.log(9))  # logit of a probability of 0.9
_ENOUGH = 8 * GRID  # pixels a side from which a thumbnail is made
_ROUNDING = 1e-5
_FEW = 8  # cells that a lung needs to have a shape
_PARTS = ("size", "place across", "height", "width", "length", "smoothness")
_PER_LUNG = len(_PARTS)


@dataclass(frozen=True)
class Normal:
    """A normal distribution, to tell how unusual something is.

    Attributes:
        mean: float64 [n].
        root: float64 [n, n], upper triangular: root.T @ root is the inverse covariance.
    """

    mean: NDArray[np.float64]
    root: NDArray[np.float64]

    def distance(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the Mahalanobis distance of float64 [..., n] to the mean: float64 [...]."""
        return np.asarray(np.linalg.norm((x - self.mean) @ self.root.T, axis=-1))

    def to_text(self) -> str:
        """Return mean and upper triangle as numbers of four digits, in lines of ten."""
        values = [*self.mean, *self.root[np.triu_indices(self.mean.size)]]
        words = [f"{value:.4g}" for value in values]
        return "\n".join(" ".join(words[i : i + 10]) for i in range(0, len(words), 10))

    @classmethod
    def from_text(cls, text: str) -> Normal:
        """Rebuild from `to_text`."""
        values = np.array(text.split(), np.float64)
        # n means and n (n + 1) / 2 numbers of the triangle.
        n = round(((9 + 8 * values.size) ** 0.5 - 3) / 2)
        root = np.zeros((n, n))
        root[np.triu_indices(n)] = values[n:]
        return cls(values[:n], root)


@cache
def usual(name: str) -> Normal:
    """Return what is usual: ``look`` for thumbnails, a protocol for the shape of its lungs."""
    return Normal.from_text(quality_table.NORMALS[name])


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


@dataclass(frozen=True)
class Oddity:
    """How unlike frontal chest X-rays an image and its outlines are.

    Attributes:
        shape: Distance of the outlines.
        strange: Distance of thumbnail and outlines together (the root of both squares), times the
            root of the uncertain band where that is broader than usual, up to `BROADEST`: on what
            is no frontal chest the model is unsure, too.
        mirror: Squared distance by which mirrored outlines are more plausible than those at hand;
            minus infinity where they are implausible, or the mirrored thumbnail is no better.
    """

    shape: float
    strange: float
    mirror: float


def oddity(
    cells: NDArray[np.float64],
    lungs: NDArray[np.float64],
    band: float,
    look: Normal,
    normal: Normal,
) -> Oddity:
    """Compare an image and its outlines with what is usual.

    Args:
        cells: float64 [CELLS, CELLS] of `thumbnail`.
        lungs: float64 [12] of `shape`.
        band: `uncertainty` as a multiple of the usual one.
        look: What is usual for thumbnails.
        normal: What is usual for the shape of lungs.
    """
    strange = float(look.distance(cells.ravel()))
    distance = float(normal.distance(lungs))
    other = float(normal.distance(mirrored_shape(lungs)))
    # By the outlines alone a small right lung would make a mirrored chest.
    turns = other < PLAUSIBLE and look.distance(np.fliplr(cells).ravel()) < strange
    return Oddity(
        shape=distance,
        strange=float(np.hypot(strange, distance) * np.clip(band, 1, BROADEST) ** 0.5),
        mirror=distance**2 - other**2 if turns else -np.inf,
    )


def cut_off(mask: NDArray[np.uint8]) -> dict[str, float]:
    """Return side of the image -> share of it along which lungs are cut off, in [0, 1].

    Args:
        mask: uint8 [GRID, GRID] of label values.
    """
    sides = {"upper": mask[0], "lower": mask[-1], "left": mask[:, 0], "right": mask[:, -1]}
    return {name: float(np.count_nonzero(cells) / GRID) for name, cells in sides.items()}


def cut_limit(side: str) -> str:
    """Return the name of the limit for a side of `cut_off`."""
    return "cropped_side" if side in ("left", "right") else f"cropped_{side}"


def limits(protocol: str) -> Mapping[str, float]:
    """Return the limits for the outlines of a protocol, named as in `LEAST`."""
    return quality_table.LIMITS.get(protocol, LEAST)


def uncertainty(logits: NDArray[np.float32], mask: NDArray[np.uint8]) -> float:
    """Return how broad the uncertain band along the outlines is.

    Args:
        logits: float32 [n, GRID, GRID], one channel per label.
        mask: uint8 [GRID, GRID] of label values.

    Returns:
        Cells with a probability between 0.1 and 0.9, divided by the root of the lungs' cells.
    """
    unsure = np.count_nonzero(np.abs(logits.max(axis=0)) < _UNCERTAIN)
    return float(unsure / max(1, int(np.count_nonzero(mask))) ** 0.5)


def grid_logits(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Resize logits float32 [n, h, w] to the grid: float32 [n, GRID, GRID]."""
    return np.stack([enlarge(channel, (GRID, GRID)) for channel in logits])


def assess(
    pixels: NDArray[np.float32],
    logits: NDArray[np.float32],
    labels: Sequence[Label],
    shares: Mapping[str, float],
    known: Sequence[Flag] = (),
) -> tuple[Flag, ...]:
    """Return the reasons to doubt a segmentation, the gravest first.

    One cause gives one flag: an image that lies wrongly or shows no chest is not called
    implausible as well.

    Args:
        pixels: float32 [H, W] in [0, 1], turned upright as far as its file tells.
        logits: float32 [n, h, w] at the model's resolution, the channels of `labels`.
        labels: The labels of the mask, right before left.
        shares: Label name -> share of the image, in [0, 1], at its native size.
        known: What the reader has flagged already.

    Returns:
        Flags that are not among `known`, under that or another name.
    """
    channels = grid_logits(logits)
    mask = label_mask(list(channels), labels)
    # Averaging all pixels of a large X-ray would take longer than all the rest.
    step = max(1, min(pixels.shape) // _ENOUGH)
    fewer = np.ascontiguousarray(pixels[::step, ::step])
    cells = thumbnail(fewer)
    found = (
        _lies_wrongly(fewer, cells)
        or _no_chest(cells, mask)
        or _missing(shares, labels)
        or _lungs(channels, mask, labels, cells)
    )
    found = [*found, *([] if cells is None else _gray(pixels, mask)), *_size(pixels)]
    said = {flag.code for flag in known}
    return tuple(flag for flag in found if not said & _SAME.get(flag.code, frozenset()))


_SAME = {
    "inverted": frozenset({"photometric_lies"}),
    "not_chest": frozenset({"other_body_part", "not_frontal_view"}),
}
"""Code -> codes of the DICOM reader that say the same."""


def _lies_wrongly(pixels: NDArray[np.float32], cells: NDArray[np.float64] | None) -> list[Flag]:
    """Find the way to lay the image that makes it most like a chest X-ray."""
    if cells is None:
        return []
    ways = [(turns, sign) for sign in (1, -1) for turns in range(4)]
    laid = np.stack([sign * np.rot90(cells, turns).ravel() for turns, sign in ways])
    distances = usual("look").distance(laid)
    gains = distances[0] - distances
    limits = [TWICE_GAIN if turns and sign < 0 else TURNED_GAIN for turns, sign in ways]
    best = int((gains - limits).argmax())
    turns, sign = ways[best]
    gain = float(gains[best])
    if gain <= limits[best] or distances[best] > FAMILIAR:
        return []
    found = []
    if sign < 0:
        score = polarity(np.ascontiguousarray(np.rot90(resize(pixels, GRID), turns)))
        if score >= INVERTED:
            return []
        reason = "the gray scale seems to be inverted: dense tissue is dark"
        found.append(Flag("inverted", reason, score, INVERTED))
    if turns == 2:
        reason = "the image seems to be upside down"
        found.append(Flag("upside_down", reason, gain, limits[best]))
    elif turns:
        reason = "the image seems to be turned by a quarter"
        found.append(Flag("rotated", reason, gain, limits[best]))
    return found


def _no_chest(cells: NDArray[np.float64] | None, mask: NDArray[np.uint8]) -> list[Flag]:
    reason = "the image does not look like a frontal chest X-ray"
    if cells is None:
        # Where no lung was found either, that is said.
        return [Flag("not_chest", reason)] if mask.any() else []
    distance = float(usual("look").distance(cells.ravel()))
    if distance <= STRANGE_LOOK:
        return []
    return [Flag("not_chest", reason, distance, STRANGE_LOOK)]


def _missing(shares: Mapping[str, float], labels: Sequence[Label]) -> list[Flag]:
    missing = [label for label in labels if shares[label.name] < MIN_LUNG]
    if len(missing) == len(labels):
        return [Flag("no_lung", "no lung was found", sum(shares.values()), MIN_LUNG)]
    return [
        Flag(
            "lung_missing",
            f"the {label.title} was not found or is too small",
            shares[label.name],
            MIN_LUNG,
        )
        for label in missing
    ]


def _lungs(
    channels: NDArray[np.float32],
    mask: NDArray[np.uint8],
    labels: Sequence[Label],
    cells: NDArray[np.float64] | None,
) -> list[Flag]:
    """Judge the outlines of a mask that misses no lung."""
    protocol = labels[0].protocol
    # A model of another maker may know a protocol that the table does not.
    fitted = len(labels) == 2 and protocol in quality_table.NORMALS
    lungs = shape(mask) if fitted else None
    band = uncertainty(channels, mask) / quality_table.USUAL_UNCERTAINTY[protocol] if fitted else 0
    found = _cropped(mask, protocol)
    if lungs is not None and cells is not None:
        found = found or _shape(lungs, band, labels, cells)
    found = found or _fragmented(mask, labels)
    limit = limits(protocol)["unsure"]
    if band > limit and "not_chest" not in {flag.code for flag in found}:
        found = [*found, Flag("low_confidence", _UNSURE, band, limit)]
    return found


_UNSURE = "the model is unsure of the outlines"


def _shape(
    lungs: NDArray[np.float64], band: float, labels: Sequence[Label], cells: NDArray[np.float64]
) -> list[Flag]:
    protocol = labels[0].protocol
    normal, limit = usual(protocol), limits(protocol)
    odd = oddity(cells, lungs, band, usual("look"), normal)
    if odd.mirror > limit["mirror"]:
        reason = "the image seems to be mirrored, or the heart lies on the right: check the sides"
        return [Flag("mirrored", reason, odd.mirror, limit["mirror"])]
    if odd.strange > limit["strange"]:
        reason = "image and outlines are unlike a frontal chest X-ray"
        return [Flag("not_chest", reason, odd.strange, limit["strange"])]
    if odd.shape <= limit["shape"]:
        return []
    deviations = np.abs(lungs - normal.mean) / spreads(normal)
    worst = int(deviations.argmax())
    part, label = _PARTS[worst % _PER_LUNG], labels[worst // _PER_LUNG]
    reason = f"the outlines are unlike those of two lungs, most of all the {label.title}'s {part}"
    return [Flag("implausible_shape", reason, odd.shape, limit["shape"])]


def spreads(normal: Normal) -> NDArray[np.float64]:
    """Return the standard deviations of a normal distribution: float64 [n]."""
    inverse = np.linalg.inv(normal.root)
    return np.asarray(np.sqrt((inverse**2).sum(axis=1)))


def _cropped(mask: NDArray[np.uint8], protocol: str) -> list[Flag]:
    found = []
    for side, share in cut_off(mask).items():
        limit = limits(protocol)[cut_limit(side)]
        if share > limit:
            reason = f"a lung is cut off at the {side} side of the image"
            found.append(Flag("cropped", reason, share, limit))
    return found


def _fragmented(mask: NDArray[np.uint8], labels: Sequence[Label]) -> list[Flag]:
    import cv2

    found = []
    for label in labels:
        lung = (mask == label.value).astype(np.uint8)
        cells = np.count_nonzero(lung)
        _, _, stats, _ = cv2.connectedComponentsWithStats(lung)
        largest = int(stats[1:, cv2.CC_STAT_AREA].max(initial=0))
        apart = 1 - largest / cells if cells else 0.0
        if apart > FRAGMENTED:
            reason = f"the {label.title} falls into several pieces"
            found.append(Flag("fragmented", reason, apart, FRAGMENTED))
    return found


def _gray(pixels: NDArray[np.float32], mask: NDArray[np.uint8]) -> list[Flag]:
    """Judge the histogram of the pixels in the middle of each cell of the grid."""
    height, width = pixels.shape
    middle = 2 * np.arange(GRID) + 1
    samples = pixels[np.ix_(middle * height // (2 * GRID), middle * width // (2 * GRID))]
    low, high = (float(x) for x in np.percentile(samples, (1, 99)))
    if 0 < high - low < LOW_CONTRAST and np.unique(samples).size < FEW_LEVELS:
        reason = "the image holds too few gray values: it is too dark, too bright or too flat"
        return [Flag("low_contrast", reason, high - low, LOW_CONTRAST)]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return []
    box = samples[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    clipped = {
        "lungs are fully black": float(np.mean(samples[mask > 0] <= _BLACK)),
        "chest is fully white": float(np.mean(box >= _WHITE)),
    }
    what, share = max(clipped.items(), key=lambda item: item[1])
    if share <= SATURATED:
        return []
    reason = f"gray values are cut off: much of the {what}"
    return [Flag("saturated", reason, share, SATURATED)]


def _size(pixels: NDArray[np.float32]) -> list[Flag]:
    side = min(pixels.shape)
    if side >= TINY:
        return []
    return [Flag("tiny", "the image is too small for exact outlines", side, TINY)]
