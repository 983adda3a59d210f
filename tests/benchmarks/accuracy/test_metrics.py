from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from cxrseg.benchmarks.accuracy.metrics import dice, iou

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
