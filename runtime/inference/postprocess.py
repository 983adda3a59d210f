"""From logits to a label mask: without smoothing, but for specks and small holes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.core.labels import BACKGROUND, Label, Structure
from cxrseg.runtime.core.strips import strips

SPECK = 0.15
"""A piece below this share of its lung's largest piece is a speck, if it lies apart as well."""

APART = 0.04
"""Share of the image's side by which a speck lies away from its lung's largest piece."""

HOLE = 0.01
"""Share of both lungs up to which a hole in them is closed."""

_BARELY = 1e-3


def upsample(logits: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize float32 [h, w] bilinearly to `size` = (height, width)."""
    # Imported here: a command imports it while the model loads.
    import cv2

    height, width = size
    out = cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(out, dtype=np.float32)


def label_mask(
    logits: Sequence[NDArray[np.float32]], labels: Sequence[Structure]
) -> NDArray[np.uint8]:
    """Give each pixel with a positive logit the label of the largest; the first wins a tie.

    Args:
        logits: One float32 [H, W] for each label; above 0 is lung.
        labels: The labels, in the order of `logits`.

    Returns:
        uint8 [H, W] of label values, `BACKGROUND` elsewhere.

    Raises:
        ValueError: The largest logit of a pixel is NaN or infinite: it tells nothing of lungs.
    """
    best = logits[0]
    mask = np.full(best.shape, labels[0].value, dtype=np.uint8)
    for channel, label in zip(logits[1:], labels[1:], strict=True):
        mask[channel > best] = label.value
        best = np.maximum(best, channel)
    if best.size and not np.isfinite(best.max()):
        raise ValueError("logits of a mask are not finite")
    mask[best <= 0] = BACKGROUND
    return mask


def native_mask(
    logits: Sequence[NDArray[np.float32]], labels: Sequence[Label], size: tuple[int, int]
) -> tuple[NDArray[np.uint8], dict[str, float | None]]:
    """Upsample logits as `upsample` does, and label them as `label_mask` does.

    In strips, since the logits of a large image take several times its size. They are upright:
    upsampled down the columns alone, a part has the same values as the whole, to the last bit.

    Args:
        logits: One float32 [h, w] for each label.
        labels: The labels, in the order of `logits`.
        size: (height, width) of the mask.

    Returns:
        uint8 [H, W] of label values; label name -> mean probability inside, None where it is
        nowhere.

    Raises:
        ValueError: As `label_mask`.
    """
    height, width = size
    mask = np.empty(size, dtype=np.uint8)
    sums, counts = np.zeros(len(labels)), np.zeros(len(labels), dtype=np.int64)
    across = [upsample(channel, (channel.shape[0], width)) for channel in logits]
    for columns in strips(width, height):
        parts = [upsample(plane[:, columns], (height, _length(columns))) for plane in across]
        mask[:, columns] = part = label_mask(parts, labels)
        for i, label in enumerate(labels):
            inside = parts[i][part == label.value]
            # Inside a lung every logit is positive, so exp cannot overflow.
            sums[i] += np.sum(1 / (1 + np.exp(-inside)), dtype=np.float64)
            counts[i] += inside.size
    return mask, {
        label.name: float(sums[i] / counts[i]) if counts[i] else None
        for i, label in enumerate(labels)
    }


def _length(part: slice) -> int:
    return int(part.stop - part.start)


def clean_components(logits: NDArray[np.float32], labels: Sequence[Label]) -> NDArray[np.float32]:
    """Take specks away from the lungs and close small holes in them.

    Parts of a lung that a shadow cuts off lie near it and stay; so does every large piece. Done on
    the model's grid, so it costs the same for an image of any size.

    Args:
        logits: float32 [n, h, w], the channels of `labels`; above 0 is lung.
        labels: The labels, in the order of the channels.

    Returns:
        float32 [n, h, w]. A speck is as surely no lung as it was lung before; what closes a hole
        is barely lung, since the model saw none.
    """
    out = logits.copy()
    mask = label_mask(list(logits), labels)
    for channel, label in zip(out, labels, strict=True):
        specks = _specks(mask == label.value)
        channel[specks] = -np.abs(channel[specks])
    mask = label_mask(list(out), labels)
    values = [label.value for label in labels]
    for hole, around in _holes(mask != BACKGROUND):
        channel = out[int(np.argmax([np.count_nonzero(mask[around] == x) for x in values]))]
        channel[hole] = _BARELY
    return out


def _specks(lung: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the cells of one lung's specks: bool [h, w]."""
    import cv2

    count, pieces, stats, _ = cv2.connectedComponentsWithStats(lung.astype(np.uint8))
    if count <= 2:
        return np.zeros_like(lung)
    areas = stats[:, cv2.CC_STAT_AREA]
    largest = 1 + int(areas[1:].argmax())
    away = cv2.distanceTransform((pieces != largest).astype(np.uint8), cv2.DIST_L2, 5)
    gap = APART * max(lung.shape)
    specks = [
        number
        for number in range(1, count)
        if areas[number] < SPECK * areas[largest] and away[pieces == number].min() > gap
    ]
    return np.asarray(np.isin(pieces, specks))


def _holes(
    lungs: NDArray[np.bool_],
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Give each small hole in bool [h, w] and the cells around it, both bool [h, w]."""
    import cv2

    # Lungs join across a corner, so what is around them does not.
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(
        (~lungs).astype(np.uint8), connectivity=4
    )
    open_ones = np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]])
    limit = HOLE * np.count_nonzero(lungs)
    for number in range(1, count):
        if stats[number, cv2.CC_STAT_AREA] <= limit and number not in open_ones:
            hole = pieces == number
            yield hole, cv2.dilate(hole.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
