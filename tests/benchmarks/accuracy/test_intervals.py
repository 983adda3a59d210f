from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrseg.benchmarks.accuracy.intervals import bootstrap_interval, per_patient

values = st.lists(st.floats(0, 1), min_size=2, max_size=20)


@given(values, st.integers(0, 5))
def test_interval_lies_within_the_values(data: list[float], seed: int) -> None:
    interval = bootstrap_interval(data, range(len(data)), seed, resamples=50)
    assert interval is not None
    low, high = interval
    assert min(data) - 1e-9 <= low <= high + 1e-9 <= max(data) + 2e-9


def test_interval_is_reproducible() -> None:
    data = [0.1 * i for i in range(10)]
    first = bootstrap_interval(data, range(10), seed=3)
    assert first == bootstrap_interval(data, range(10), seed=3)
    assert first != bootstrap_interval(data, range(10), seed=4)


def test_interval_agrees_with_the_standard_error() -> None:
    data = list(np.random.default_rng(0).normal(0.9, 0.05, 400))
    interval = bootstrap_interval(data, range(400))
    assert interval is not None
    expected = 1.96 * np.std(data) / np.sqrt(400)
    assert interval[1] - interval[0] == pytest.approx(2 * expected, rel=0.15)
    assert interval[0] < np.mean(data) < interval[1]


def test_images_of_one_patient_count_once() -> None:
    data = list(np.random.default_rng(0).uniform(0, 1, 20))
    single = bootstrap_interval(data, range(20))
    patients = [patient for patient in range(20) for _ in range(5)]
    repeated = bootstrap_interval([data[patient] for patient in patients], patients)
    # Five copies of each image are no new information.
    assert repeated == pytest.approx(single)


def test_one_patient_gives_no_interval() -> None:
    assert bootstrap_interval([0.5, 0.7], ["p", "p"]) is None


def test_interval_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="patients"):
        bootstrap_interval([0.5], ["a", "b"])
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval([0.5, 0.6], ["a", "b"], level=1.0)
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_interval([0.5, 0.6], ["a", "b"], resamples=0)


def test_values_of_one_patient_are_summed() -> None:
    sums, counts = per_patient([1, 3, 10], ["b", "b", "a"])
    assert sums.tolist() == [4, 10]
    assert counts.tolist() == [2, 1]
