"""How sure a mean over patients is."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
"""Bootstrap resamples; the bounds of a 95 % interval are then stable to about 3 % of its width."""

Interval = tuple[float, float]

Values = NDArray[np.float64]


def per_patient(
    values: Sequence[float] | Values, patients: Sequence[Hashable]
) -> tuple[Values, Values]:
    """Return sum and number of each patient's values: images of one patient are not independent.

    Args:
        values: One value per image.
        patients: The patient of each image, in the same order.

    Returns:
        Sums and counts, float64 [patients] each, in the order of first mention.

    Raises:
        ValueError: The lengths differ.
    """
    if len(values) != len(patients):
        raise ValueError(f"{len(values)} values of {len(patients)} patients")
    numbers = {patient: number for number, patient in enumerate(dict.fromkeys(patients))}
    of = np.array([numbers[patient] for patient in patients])
    sums = np.bincount(of, weights=np.asarray(values, np.float64))
    return np.asarray(sums, np.float64), np.bincount(of).astype(np.float64)


def bootstrap_interval(
    values: Sequence[float] | Values,
    patients: Sequence[Hashable],
    seed: int = 0,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> Interval | None:
    """Return a percentile bootstrap interval of the mean, drawn over patients.

    Args:
        values: One value per image.
        patients: The patient of each image, in the same order.
        seed: Seed of the drawing; the same seed gives the same interval.
        level: Coverage, between 0 and 1.
        resamples: Number of resamples.

    Returns:
        Lower and upper bound, or None with fewer than two patients, who tell of no variation.

    Raises:
        ValueError: `values` and `patients` differ in length, or `level` or `resamples` is
            senseless.
    """
    from scipy.stats import bootstrap

    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"level {level}, {resamples} resamples")
    sums, counts = per_patient(values, patients)
    if len(counts) < 2:
        return None

    def mean(sums: Values, counts: Values, axis: int = -1) -> Any:
        return sums.sum(axis) / counts.sum(axis)

    found = bootstrap(
        (sums, counts),
        mean,
        n_resamples=resamples,
        batch=100,  # so that memory does not grow with the number of resamples
        vectorized=True,
        paired=True,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
