"""Statistics of paired scores against values known by hand or from simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cxrseg.benchmarks.accuracy.paired import (
    compare,
    holm,
    rank_biserial,
    tost_p,
    wilcoxon_p,
)

MARGIN = 0.005


def test_rank_biserial_by_hand() -> None:
    """Ranks 1, 2, 3 of which 2 is negative: (1 + 3 - 2) / 6."""
    assert rank_biserial(np.array([0.1, -0.2, 0.3, 0.0])) == pytest.approx(1 / 3)
    assert rank_biserial(np.array([0.2, 0.4])) == 1
    assert rank_biserial(np.zeros(3)) == 0


def test_rank_biserial_agrees_with_the_statistic() -> None:
    rng = np.random.default_rng(0)
    differences = rng.normal(0.2, 1, 40)
    result = stats.wilcoxon(differences)
    total = 40 * 41 / 2
    assert abs(rank_biserial(differences)) == pytest.approx(1 - 2 * result.statistic / total)


def test_wilcoxon_by_hand() -> None:
    """All five signs alike: two of 2^5 orders are as extreme."""
    assert wilcoxon_p(np.array([1.0, 2, 3, 4, 5])) == pytest.approx(2 / 32)
    assert wilcoxon_p(np.zeros(5)) == 1


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_tost_is_two_one_sided_tests() -> None:
    values = np.random.default_rng(1).normal(0.001, 0.004, 30)
    t = (values.mean() - MARGIN) / (values.std(ddof=1) / np.sqrt(30))
    assert tost_p(values, MARGIN) == pytest.approx(stats.t.cdf(t, 29))
    assert tost_p(values - 0.004, MARGIN) is not None
    assert tost_p(values[:1], MARGIN) is None
    assert tost_p(np.full(3, 0.001), MARGIN) == 0
    assert tost_p(np.full(3, 0.01), MARGIN) == 1


def test_tost_keeps_its_level() -> None:
    """With a true difference of the margin itself, one in twenty is called equivalent."""
    rng = np.random.default_rng(2)
    found = [tost_p(rng.normal(MARGIN, 0.002, 25), MARGIN) for _ in range(2000)]
    assert 0.035 < np.mean([p is not None and p < 0.05 for p in found]) < 0.065


def test_patients_count_once() -> None:
    values = np.array([1.0, 3.0, 10.0])
    found = compare(values / 10, np.zeros(3), ["a", "a", "b"], MARGIN)
    assert (found.images, found.patients) == (3, 2)
    assert found.tost_p == pytest.approx(tost_p(np.array([0.2, 1.0]), MARGIN))
    alone = compare(values / 10, np.zeros(3), ["a", "a", "a"], MARGIN)
    assert alone.tost_p is alone.ci95 is None
    assert alone.verdict == "undecided"


@pytest.mark.parametrize(
    ("shift", "spread", "verdict"),
    [
        (0.0, 0.002, "equivalent"),
        (0.002, 0.001, "differs, but within the margin"),
        (0.02, 0.01, "differs"),
        (0.0, 0.08, "undecided"),
    ],
)
def test_verdicts(shift: float, spread: float, verdict: str) -> None:
    rng = np.random.default_rng(3)
    noise = rng.normal(0, spread, 60)
    second = rng.uniform(0.6, 0.8, 60)
    found = compare(second + shift + noise - noise.mean(), second, range(60), MARGIN)
    assert found.verdict == verdict
    assert found.difference == pytest.approx(shift, abs=1e-6)
    assert found.ci95 is not None and found.ci90 is not None
    assert found.ci95[0] <= found.ci90[0] <= found.difference <= found.ci90[1] <= found.ci95[1]
    assert found.better + found.worse == 60


@pytest.mark.parametrize(
    ("first", "second", "margin"), [([1.0], [1.0, 0.5], 0.1), ([], [], 0.1), ([1.0], [1.0], 0.0)]
)
def test_senseless_input(first: list[float], second: list[float], margin: float) -> None:
    with pytest.raises(ValueError, match="scores"):
        compare(first, second, ["p"] * len(first), margin)
