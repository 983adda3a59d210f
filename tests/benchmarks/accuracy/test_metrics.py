from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from cxrseg.benchmarks.accuracy.metrics import bootstrap_interval, dice, iou

Mask = NDArray[np.bool_]


def mask(text: str) -> Mask:
    return np.array([[cell == "#" for cell in row] for row in text.split()])


def test_known_values() -> None:
    first, second = mask("##.. ##.."), mask(".##. .##.")
    assert dice(first, second) == 0.5
    assert iou(first, second) == pytest.approx(1 / 3)
    assert dice(first, first) == iou(first, first) == 1.0
    assert dice(first, mask("..## ..##")) == iou(first, mask("..## ..##")) == 0.0


def test_empty_masks() -> None:
    empty, full = mask("..."), mask("###")
    assert dice(empty, empty) == iou(empty, empty) == 1.0
    assert dice(empty, full) == iou(full, empty) == 0.0


@pytest.mark.parametrize("measure", [dice, iou])
def test_other_shapes_and_types_are_refused(measure) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="shapes"):
        measure(mask("##"), mask("###"))
    with pytest.raises(ValueError, match="bool"):
        measure(mask("##").astype(np.uint8), mask("##"))


pairs = array_shapes(min_dims=2, max_dims=2, max_side=8).flatmap(
    lambda shape: st.tuples(arrays(np.bool_, shape), arrays(np.bool_, shape))
)


@given(pairs)
def test_range_symmetry_and_order(pair: tuple[Mask, Mask]) -> None:
    first, second = pair
    d, j = dice(first, second), iou(first, second)
    assert 0 <= j <= d <= 1
    assert (d, j) == (dice(second, first), iou(second, first))
    assert d == pytest.approx(2 * j / (1 + j))
    assert (d == 1) == bool((first == second).all())


@given(pairs)
def test_mirroring_changes_nothing(pair: tuple[Mask, Mask]) -> None:
    first, second = pair
    assert dice(first, second) == dice(first[:, ::-1], second[:, ::-1])


values = st.lists(st.floats(0, 1), min_size=2, max_size=20)


@given(values, st.integers(0, 5))
def test_interval_lies_within_the_values(data: list[float], seed: int) -> None:
    interval = bootstrap_interval(data, range(len(data)), seed, resamples=50)
    assert interval is not None
    low, high = interval
    assert min(data) - 1e-9 <= low <= high <= max(data) + 1e-9


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
    with pytest.raises(ValueError, match="groups"):
        bootstrap_interval([0.5], ["a", "b"])
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval([0.5, 0.6], ["a", "b"], level=1.0)
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_interval([0.5, 0.6], ["a", "b"], resamples=0)
