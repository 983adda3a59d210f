"""When not to trust a mask: flags from the look of an image and the shape of its lungs.

Two distances carry most of it, both Mahalanobis distances ("On the generalised distance in
statistics", 1936) to frontal chest X-rays that the model segments well: that of a thumbnail, in
each way that it can lie, and that of the size, place and form of both lungs. They are measured in
standard deviations of those X-rays, which the model file holds as its quality reference, together
with the limits of all that depends on the model's outlines. All rules are in `rules`.

``cxrseg-bench quality`` tells how often each flag is raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.core.flags import Flag
from cxrseg.runtime.core.labels import Label
from cxrseg.runtime.inference.postprocess import label_mask
from cxrseg.runtime.quality.features import GRID, grid_logits, thumbnail
from cxrseg.runtime.quality.image_flags import gray_flags, image_flags
from cxrseg.runtime.quality.outline_flags import judged_protocol, missing_lungs, outline_flags
from cxrseg.runtime.quality.prediction import Prediction
from cxrseg.runtime.quality.reference import Reference
from cxrseg.runtime.quality.rules import RULES, Need, judge

_ENOUGH = 8 * GRID  # pixels a side from which a thumbnail is made

_SAME = {
    "inverted": frozenset({"photometric_lies"}),
    "not_chest": frozenset({"other_body_part", "not_frontal_view"}),
}
"""Code -> codes of the DICOM reader that say the same."""


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
    prediction: Prediction,
    reference: Reference | None,
    known: Sequence[Flag] = (),
) -> tuple[Flag, ...]:
    """Return the reasons to doubt a segmentation, the gravest first.

    One cause gives one flag: an image that lies the wrong way or shows no chest is not called
    implausible as well.

    Args:
        pixels: float32 [H, W] in [0, 1], turned upright as far as its file tells.
        prediction: What the model says of it.
        reference: The model's quality reference. Without it, only flags that need none are raised:
            `not_assessed` names the others.
        known: What the reader has flagged already.

    Returns:
        Flags that are not among `known`, under that or another name.
    """
    prediction = replace(prediction, logits=grid_logits(prediction.logits))
    mask = label_mask(list(prediction.logits), prediction.labels)
    # Averaging all pixels of a large X-ray would take longer than all the rest.
    step = max(1, min(pixels.shape) // _ENOUGH)
    fewer = np.ascontiguousarray(pixels[::step, ::step])
    cells = thumbnail(fewer)
    flags = (
        image_flags(fewer, cells, mask, reference)
        or missing_lungs(prediction)
        or outline_flags(prediction, mask, cells, reference)
    )
    flags = [*flags, *([] if cells is None else gray_flags(pixels, mask))]
    flags += judge("tiny", min(pixels.shape))
    said = {flag.code for flag in known}
    return tuple(flag for flag in flags if not said & _SAME.get(flag.code, frozenset()))
