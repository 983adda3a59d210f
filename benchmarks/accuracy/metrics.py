"""Agreement of two masks, and how sure a mean over patients is."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

RESAMPLES = 2000
"""Bootstrap resamples; the bounds of a 95 % interval are then stable to about 3 % of its width."""

_CHUNK = 100


def dice(prediction: Mask, truth: Mask) -> float:
    """Return the Dice coefficient 2 |A and B| / (|A| + |B|).

    Args:
        prediction: bool [H, W].
        truth: bool [H, W].

    Returns:
        A value in [0, 1]; 1.0 where both masks are empty.

    Raises:
        ValueError: The shapes differ, or a mask is not boolean.
    """
    both, total = _overlap(prediction, truth)
    return 2 * both / total if total else 1.0


def iou(prediction: Mask, truth: Mask) -> float:
    """Return intersection over union |A and B| / |A or B|, the Jaccard index.

    Args:
        prediction: bool [H, W].
        truth: bool [H, W].

    Returns:
        A value in [0, 1], never above the Dice coefficient; 1.0 where both masks are empty.

    Raises:
        ValueError: The shapes differ, or a mask is not boolean.
    """
    both, total = _overlap(prediction, truth)
    return both / (total - both) if total else 1.0


def check_masks(prediction: Mask, truth: Mask) -> None:
    """Refuse two masks that cannot be compared.

    Args:
        prediction: bool [H, W].
        truth: bool [H, W].

    Raises:
        ValueError: The shapes differ, or a mask is not boolean.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"masks of shapes {prediction.shape} and {truth.shape}")
    if prediction.dtype != np.bool_ or truth.dtype != np.bool_:
        raise ValueError(f"masks of types {prediction.dtype} and {truth.dtype}, not bool")


def _overlap(prediction: Mask, truth: Mask) -> tuple[int, int]:
    """Return |A and B| and |A| + |B|."""
    check_masks(prediction, truth)
    both = int(np.count_nonzero(prediction & truth))
    return both, int(np.count_nonzero(prediction)) + int(np.count_nonzero(truth))


def bootstrap_interval(
    values: Sequence[float],
    groups: Sequence[Hashable],
    seed: int = 0,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> tuple[float, float] | None:
    """Return a percentile bootstrap interval of the mean.

    Whole groups are drawn with replacement, since images of one patient are not independent.

    Args:
        values: One value per image.
        groups: The patient of each image, in the same order.
        seed: Seed of the drawing; the same seed gives the same interval.
        level: Coverage, between 0 and 1.
        resamples: Number of resamples.

    Returns:
        Lower and upper bound, or None with fewer than two groups, which tell of no variation.

    Raises:
        ValueError: `values` and `groups` differ in length, or `level` or `resamples` is senseless.
    """
    if len(values) != len(groups):
        raise ValueError(f"{len(values)} values of {len(groups)} groups")
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"level {level}, {resamples} resamples")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    if len(numbers) < 2:
        return None
    of = np.array([numbers[group] for group in groups])
    counts = np.bincount(of)
    sums = np.bincount(of, weights=np.asarray(values, dtype=np.float64))

    rng = np.random.default_rng(seed)
    means: list[NDArray[np.float64]] = []
    # In chunks, so that memory does not grow with the number of resamples.
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        drawn = rng.integers(len(counts), size=(rows, len(counts)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    tail = 50 * (1 - level)
    low, high = np.percentile(np.concatenate(means), (tail, 100 - tail))
    return float(low), float(high)
