"""When not to trust a mask: flags from the look of an image and the shape of its lungs.

Two distances carry most of it, both Mahalanobis distances ("On the generalised distance in
statistics", 1936) to frontal chest X-rays that the model segments well: that of a thumbnail, in
each way that it can lie, and that of the size, place and form of both lungs. They are measured in
standard deviations of those X-rays, which the model file holds as its quality reference, together
with the limits of all that depends on the model's outlines. All rules are in `rules`.

``cxrseg-bench quality`` tells how often each flag is raised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.core.flags import Flag
from cxrseg.runtime.core.labels import Label, Protocol, labels_of
from cxrseg.runtime.core.preprocess import resize
from cxrseg.runtime.inference.postprocess import label_mask
from cxrseg.runtime.quality.features import (
    GRID,
    PARTS,
    cut_off,
    grid_logits,
    mirrored_shape,
    shape,
    thumbnail,
    uncertainty,
)
from cxrseg.runtime.quality.gaussian import Gaussian
from cxrseg.runtime.quality.reference import Reference
from cxrseg.runtime.quality.rules import RULES, Need, judge
from cxrseg.runtime.readers.polarity import INVERTED, polarity

TWICE_GAIN = 2.0
"""The limit of ``rotated`` and ``upside_down`` for an inverted image: both at once are rare."""

FAMILIAR = 10.0
"""Thumbnail distance up to which an image may be a chest X-ray that lies wrongly."""

FEW_LEVELS = 32
"""Gray levels below which a narrow range is coarse, too. Files of 12 of 16 bits have more."""

_BLACK, _WHITE = 1 / 255, 254 / 255
_ENOUGH = 8 * GRID  # pixels a side from which a thumbnail is made

Cells = NDArray[np.float64]
Shape = NDArray[np.float64]


def judged_protocol(reference: Reference | None, labels: Sequence[Label]) -> Protocol | None:
    """Return the protocol of `labels` where the reference can judge their outlines, else None."""
    protocol = labels[0].protocol
    known = reference is not None and protocol in reference.protocols
    return protocol if known and tuple(labels) == labels_of(protocol) else None


def not_assessed(reference: Reference | None, labels: Sequence[Label]) -> tuple[str, ...]:
    """Return the codes of the flags that cannot be judged, in the order of `RULES`.

    Args:
        reference: The model's quality reference, or None.
        labels: The labels of the mask.
    """
    lacking: set[Need] = set()
    if reference is None:
        lacking.add("statistics")
    if judged_protocol(reference, labels) is None:
        lacking.add("limit")
    return tuple(dict.fromkeys(rule.code for rule in RULES.values() if rule.needs in lacking))


def assess(
    pixels: NDArray[np.float32],
    logits: NDArray[np.float32],
    labels: Sequence[Label],
    shares: Mapping[str, float],
    reference: Reference | None,
    known: Sequence[Flag] = (),
    other_logits: Mapping[Protocol, NDArray[np.float32]] | None = None,
) -> tuple[Flag, ...]:
    """Return the reasons to doubt a segmentation, the gravest first.

    One cause gives one flag: an image that lies wrongly or shows no chest is not called
    implausible as well.

    Args:
        pixels: float32 [H, W] in [0, 1], turned upright as far as its file tells.
        logits: float32 [n, h, w] at the model's resolution, the channels of `labels`.
        labels: The labels of the mask, right before left.
        shares: Label name -> share of the image, in [0, 1], at its native size.
        reference: The model's quality reference. Without it, only flags that need none are raised:
            `not_assessed` names the others.
        known: What the reader has flagged already.
        other_logits: Logits of both lungs under other protocols that the model knows. Where the
            heart lies shows best in the difference.

    Returns:
        Flags that are not among `known`, under that or another name.
    """
    channels = grid_logits(logits)
    mask = label_mask(list(channels), labels)
    # Averaging all pixels of a large X-ray would take longer than all the rest.
    step = max(1, min(pixels.shape) // _ENOUGH)
    fewer = np.ascontiguousarray(pixels[::step, ::step])
    cells = thumbnail(fewer)
    flags = (
        _image(fewer, cells, mask, reference)
        or _missing(shares, labels)
        or _lungs(channels, mask, labels, cells, reference, other_logits or {})
    )
    flags = [*flags, *([] if cells is None else _gray(pixels, mask))]
    flags += judge("tiny", min(pixels.shape))
    said = {flag.code for flag in known}
    return tuple(flag for flag in flags if not said & _SAME.get(flag.code, frozenset()))


_SAME = {
    "inverted": frozenset({"photometric_lies"}),
    "not_chest": frozenset({"other_body_part", "not_frontal_view"}),
}
"""Code -> codes of the DICOM reader that say the same."""


def _image(
    pixels: NDArray[np.float32],
    cells: Cells | None,
    mask: NDArray[np.uint8],
    reference: Reference | None,
) -> list[Flag]:
    """Judge the image, whatever its outlines."""
    if cells is None:
        # Where no lung was found either, that is said.
        return [Flag("not_chest", RULES["thumbnail"].reason)] if mask.any() else []
    if reference is None:
        return []
    usual = reference.statistics.thumbnail
    return _lies_wrongly(pixels, cells, usual) or judge(
        "thumbnail", float(usual.distance(cells.ravel()))
    )


def _lies_wrongly(pixels: NDArray[np.float32], cells: Cells, usual: Gaussian) -> list[Flag]:
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


def _missing(shares: Mapping[str, float], labels: Sequence[Label]) -> list[Flag]:
    missing = [
        flag
        for label in labels
        for flag in judge("lung_missing", shares[label.name], lung=label.title)
    ]
    if len(missing) < len(labels):
        return missing
    rule = RULES["no_lung"]
    return [Flag(rule.code, rule.reason, sum(shares.values()), rule.limit)]


def _lungs(
    channels: NDArray[np.float32],
    mask: NDArray[np.uint8],
    labels: Sequence[Label],
    cells: Cells | None,
    reference: Reference | None,
    other_logits: Mapping[Protocol, NDArray[np.float32]],
) -> list[Flag]:
    """Judge the outlines of a mask that misses no lung."""
    protocol = judged_protocol(reference, labels)
    if reference is None or protocol is None:
        return _fragmented(mask, labels)
    limits = reference.limits[protocol]
    band = uncertainty(channels, mask) / reference.statistics.uncertainty[protocol]
    along = cut_off(mask)
    cut = [
        flag
        for side, share in along.items()
        for name in [cut_rule(side)]
        for flag in judge(name, share, limits[name], side=side)
    ]
    lungs = shape(mask)
    flags = cut
    if lungs is not None and cells is not None:
        # Half a chest tells nothing of sides.
        halved = max(along["left"], along["right"]) > limits["cropped_side"]
        mirrored = [] if halved else _mirrored(protocol, cells, lungs, reference, other_logits)
        if mirrored:
            # The rest is judged as it would be in the image that is not mirrored.
            cells, lungs = np.fliplr(cells), mirrored_shape(lungs)
        deviation = reference.statistics.deviation(protocol, cells, lungs, band)
        score = deviation.out_of_distribution
        strangers = judge("out_of_distribution", score, limits["out_of_distribution"])
        if strangers and not cut:
            return strangers
        flags = [*mirrored, *cut] or _implausible(deviation.shape, lungs, reference, labels)
    flags = flags or _fragmented(mask, labels)
    return [*flags, *judge("uncertain", band, limits["uncertain"])]


def cut_rule(side: str) -> str:
    """Return the name in `RULES` for a side of `cut_off`."""
    return "cropped_side" if side in ("left", "right") else f"cropped_{side}"


def _mirrored(
    protocol: Protocol,
    cells: Cells,
    lungs: Shape,
    reference: Reference,
    other_logits: Mapping[Protocol, NDArray[np.float32]],
) -> list[Flag]:
    shapes: dict[Protocol, Shape] = {protocol: lungs}
    for other, logits in other_logits.items():
        found = shape(label_mask(list(grid_logits(logits)), labels_of(other)))
        if found is not None and other in reference.protocols:
            shapes[other] = found
    score = reference.statistics.mirror_score(cells, shapes)
    return judge("mirror", score, reference.limits[protocol]["mirror"])


def _implausible(
    distance: float, lungs: Shape, reference: Reference, labels: Sequence[Label]
) -> list[Flag]:
    protocol = labels[0].protocol
    usual = reference.statistics.shapes[protocol]
    deviations = np.abs(lungs - usual.mean) / usual.deviations()
    worst = int(deviations.argmax())
    lung, part = labels[worst // len(PARTS)].title, PARTS[worst % len(PARTS)]
    return judge("shape", distance, reference.limits[protocol]["shape"], lung=lung, part=part)


def _fragmented(mask: NDArray[np.uint8], labels: Sequence[Label]) -> list[Flag]:
    import cv2

    flags: list[Flag] = []
    for label in labels:
        lung = (mask == label.value).astype(np.uint8)
        cells = np.count_nonzero(lung)
        _, _, stats, _ = cv2.connectedComponentsWithStats(lung)
        largest = int(stats[1:, cv2.CC_STAT_AREA].max(initial=0))
        flags += judge("fragmented", 1 - largest / cells if cells else 0.0, lung=label.title)
    return flags


def _gray(pixels: NDArray[np.float32], mask: NDArray[np.uint8]) -> list[Flag]:
    """Judge the histogram of the pixels in the middle of each cell of the grid."""
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
