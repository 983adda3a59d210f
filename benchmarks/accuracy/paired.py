"""Statistics of paired scores: do two models differ, by how much, and are they equivalent?

A test that finds no difference proves no equality: it may have seen too little. So a test of
equivalence stands beside it, which asks whether the mean difference lies within a margin.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from cxrseg.benchmarks.accuracy.intervals import Interval, Values, bootstrap_interval, per_patient

ALPHA = 0.05
"""Level of every test."""

DIGITS = 6
"""Scores are rounded to as many digits, so that recorded and fresh ones give the same ranks."""


@dataclass(frozen=True)
class Comparison:
    """Paired scores of two models on the same images; differences are the first minus the second.

    Attributes:
        images: Number of images.
        patients: Number of patients.
        first: Mean score of the first model.
        second: Mean score of the second.
        difference: Mean difference.
        ci90: Bootstrap interval of it over patients; None with fewer than two patients.
        ci95: The same at 95 %.
        better: Images on which the first scores higher.
        worse: Images on which it scores lower; on the others both score the same.
        wilcoxon_p: Two-sided p of the Wilcoxon signed-rank test over images, zero differences
            left out; 1 where all are zero.
        holm_p: The same after Holm's correction over the groups; None for all images together.
        rank_biserial: Matched-pairs rank-biserial correlation (Kerby 2014) in [-1, 1]: the share
            of the rank sum that favors the first minus the share that favors the second.
        tost_p: p of two one-sided t tests (Schuirmann 1987) on the patients' mean differences
            against the margin; None with fewer than two patients.
        margin: The margin of equivalence.
    """

    images: int
    patients: int
    first: float
    second: float
    difference: float
    ci90: Interval | None
    ci95: Interval | None
    better: int
    worse: int
    wilcoxon_p: float
    holm_p: float | None
    rank_biserial: float
    tost_p: float | None
    margin: float

    @property
    def differs(self) -> bool:
        """Whether the difference is significant, corrected where there are groups."""
        return (self.wilcoxon_p if self.holm_p is None else self.holm_p) < ALPHA

    @property
    def equivalent(self) -> bool:
        """Whether the mean difference is shown to lie within the margin, by t tests and bootstrap.

        A 90 % interval inside the margin is a test of equivalence at 5 %.
        """
        inside = self.ci90 is not None and -self.margin < self.ci90[0] <= self.ci90[1] < self.margin
        return inside and self.tost_p is not None and self.tost_p < ALPHA

    @property
    def verdict(self) -> str:
        """What the tests say, in words."""
        if self.equivalent:
            return "differs, but within the margin" if self.differs else "equivalent"
        return "differs" if self.differs else "undecided"


def compare(
    first: Sequence[float] | Values,
    second: Sequence[float] | Values,
    patients: Sequence[Hashable],
    margin: float,
    seed: int = 0,
) -> Comparison:
    """Compare paired scores.

    Args:
        first: One score per image, at least one.
        second: The other model's, in the same order.
        patients: The patient of each image.
        margin: Largest mean difference that counts as none, above 0.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: The lengths differ, there is no score, or the margin is not positive.
    """
    if not len(first) == len(second) == len(patients) or not len(first) or not margin > 0:
        raise ValueError(f"{len(first)} and {len(second)} scores, margin {margin}")
    a, b = (np.round(np.asarray(scores, np.float64), DIGITS) for scores in (first, second))
    differences = np.round(a - b, DIGITS)
    sums, counts = per_patient(differences, patients)
    return Comparison(
        images=len(a),
        patients=len(counts),
        first=float(a.mean()),
        second=float(b.mean()),
        difference=float(differences.mean()),
        ci90=bootstrap_interval(differences, patients, seed, level=0.9),
        ci95=bootstrap_interval(differences, patients, seed),
        better=int(np.count_nonzero(differences > 0)),
        worse=int(np.count_nonzero(differences < 0)),
        wilcoxon_p=wilcoxon_p(differences),
        holm_p=None,
        rank_biserial=rank_biserial(differences),
        tost_p=tost_p(sums / counts, margin),
        margin=margin,
    )


def wilcoxon_p(differences: Values) -> float:
    """Return the two-sided p of the Wilcoxon signed-rank test; 1 where no difference is left."""
    from scipy.stats import wilcoxon

    nonzero = differences[differences != 0]
    return float(wilcoxon(nonzero).pvalue) if len(nonzero) else 1.0


def rank_biserial(differences: Values) -> float:
    """Return (W+ - W-) / (W+ + W-) of the signed ranks; 0 where no difference is left."""
    from scipy.stats import wilcoxon

    nonzero = differences[differences != 0]
    if not len(nonzero):
        return 0.0
    positive = float(wilcoxon(nonzero, alternative="greater").statistic)  # W+
    return 4 * positive / (len(nonzero) * (len(nonzero) + 1)) - 1


def tost_p(values: Values, margin: float) -> float | None:
    """Return the p of two one-sided t tests that the mean lies within -margin and margin.

    Args:
        values: Independent differences.
        margin: Above 0.

    Returns:
        The larger of both p; None for fewer than two values, which tell of no variation.
    """
    from scipy.stats import ttest_1samp

    if len(values) < 2:
        return None
    if np.ptp(values) == 0:  # no variation: t is not defined, and nothing is left to chance
        return 0.0 if abs(values[0]) < margin else 1.0
    lower = ttest_1samp(values, -margin, alternative="greater").pvalue
    upper = ttest_1samp(values, margin, alternative="less").pvalue
    return float(max(lower, upper))


def holm(values: Sequence[float]) -> list[float]:
    """Correct p values for their number (Holm 1979).

    Args:
        values: p of each test.

    Returns:
        The corrected p, in the same order, at most 1.
    """
    p = np.asarray(values, np.float64)
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return [min(1.0, float(value)) for value in corrected]
