"""From logits to a label mask, without smoothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.labels import BACKGROUND, Label


def enlarge(logits: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize float32 [h, w] bilinearly to `size` = (height, width)."""
    # Imported here: a command imports it while the model loads.
    import cv2

    height, width = size
    out = cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(out, dtype=np.float32)


def label_mask(logits: Sequence[NDArray[np.float32]], labels: Sequence[Label]) -> NDArray[np.uint8]:
    """Give each pixel with a positive logit the label of the largest; the first wins a tie.

    Args:
        logits: One float32 [H, W] for each label; above 0 is lung.
        labels: The labels, in the order of `logits`.

    Returns:
        uint8 [H, W] of label values, `BACKGROUND` elsewhere.
    """
    best = logits[0]
    mask = np.full(best.shape, labels[0].value, dtype=np.uint8)
    for channel, label in zip(logits[1:], labels[1:], strict=True):
        mask[channel > best] = label.value
        best = np.maximum(best, channel)
    mask[best <= 0] = BACKGROUND
    return mask
