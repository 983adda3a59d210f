"""Flags from the outlines of the lungs: whether they are there, whole, plausible and certain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.core.flags import Flag
from cxrseg.runtime.core.labels import Label, Protocol, labels_of
from cxrseg.runtime.inference.postprocess import label_mask
from cxrseg.runtime.quality.features import (
    PARTS,
    cut_off,
    grid_logits,
    mirrored_shape,
    shape,
    uncertainty,
)
from cxrseg.runtime.quality.prediction import Prediction
from cxrseg.runtime.quality.reference import Reference
from cxrseg.runtime.quality.rules import RULES, judge

Cells = NDArray[np.float64]
Shape = NDArray[np.float64]


def judged_protocol(reference: Reference | None, labels: Sequence[Label]) -> Protocol | None:
    """Return the protocol of `labels` where the reference can judge their outlines, else None."""
    protocol = labels[0].protocol
    known = reference is not None and protocol in reference.protocols
    return protocol if known and tuple(labels) == labels_of(protocol) else None


def missing_lungs(prediction: Prediction) -> list[Flag]:
    """Tell which lungs are missing, by their shares of the image."""
    shares, labels = prediction.shares, prediction.labels
    missing = [
        flag
        for label in labels
        for flag in judge("lung_missing", shares[label.name], lung=label.title)
    ]
    if len(missing) < len(labels):
        return missing
    rule = RULES["no_lung"]
    return [Flag(rule.code, rule.reason, sum(shares.values()), rule.limit)]


def outline_flags(
    prediction: Prediction,
    mask: NDArray[np.uint8],
    cells: Cells | None,
    reference: Reference | None,
) -> list[Flag]:
    """Judge the outlines of a mask that misses no lung.

    Args:
        prediction: What the model says, its logits as `grid_logits` returns them.
        mask: uint8 [GRID, GRID] of label values.
        cells: float64 [CELLS, CELLS] of `thumbnail`; None where there is nothing to see.
        reference: The model's quality reference, or None.
    """
    labels, other_logits = prediction.labels, prediction.other_logits
    protocol = judged_protocol(reference, labels)
    if reference is None or protocol is None:
        return _fragmented(mask, labels)
    limits = reference.limits[protocol]
    band = uncertainty(prediction.logits, mask) / reference.statistics.uncertainty[protocol]
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
        unlike = judge("out_of_distribution", score, limits["out_of_distribution"])
        if unlike and not cut:
            return unlike
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
