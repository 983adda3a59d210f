from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from cxrseg.benchmarks.accuracy.metrics import Surfaces, compare_surfaces, outline

Mask = NDArray[np.bool_]


def mask(text: str) -> Mask:
    return np.array([[cell == "#" for cell in row] for row in text.split()])


def points(*places: tuple[int, int], shape: tuple[int, int] = (9, 9)) -> Mask:
    drawn = np.zeros(shape, np.bool_)
    for place in places:
        drawn[place] = True
    return drawn


def square(top: int, left: int, side: int, shape: tuple[int, int] = (20, 20)) -> Mask:
    drawn = np.zeros(shape, np.bool_)
    drawn[top : top + side, left : left + side] = True
    return drawn


def test_outline_looks_up_down_left_and_right() -> None:
    full = mask("..... .###. .###. .###. .....")
    assert (outline(full) == mask("..... .###. .#.#. .###. .....")).all()
    # A background pixel at a corner does not open the outline.
    notched = mask("..### ..### ##### ##### #####")
    assert not outline(np.pad(notched, 2, constant_values=True))[5, 5]


def test_image_ends_in_background() -> None:
    assert (outline(np.ones((3, 4), np.bool_)) == mask("#### #..# ####")).all()


def test_two_points() -> None:
    found = compare_surfaces(points((1, 1)), points((4, 5)), 5)
    assert found == Surfaces(5, 5, 1)
    assert compare_surfaces(points((1, 1)), points((4, 5)), 4.9).nsd == 0


def test_one_point_against_two() -> None:
    # There: 0. Back: 0 and 4, of which the 95th percentile is 3.8 between them.
    found = compare_surfaces(points((2, 2)), points((2, 2), (2, 6)), 1)
    assert found.hd95 == pytest.approx(3.8)
    assert found.assd == pytest.approx(4 / 3)
    assert found.nsd == pytest.approx(2 / 3)


def test_square_moved_by_one() -> None:
    # Of 12 outline pixels of each, 6 lie on the other's outline and 6 beside it.
    found = compare_surfaces(square(2, 2, 4), square(2, 3, 4), 0)
    assert found == Surfaces(1, 0.5, 0.5)


def test_square_in_a_square() -> None:
    # Inner outline: 8 pixels at distance 2. Outer, 24: 12 at 2, 8 at sqrt(5), 4 corners at sqrt(8).
    found = compare_surfaces(square(7, 7, 3), square(5, 5, 7), 2)
    assert found.hd95 == pytest.approx(8**0.5)
    assert found.assd == pytest.approx((20 * 2 + 8 * 5**0.5 + 4 * 8**0.5) / 32)
    assert found.nsd == 20 / 32


def test_empty_masks() -> None:
    empty, full = np.zeros((3, 4), np.bool_), np.ones((3, 4), np.bool_)
    assert compare_surfaces(empty, empty, 1) == Surfaces(0, 0, 1)
    assert compare_surfaces(empty, full, 1) == Surfaces(5, 5, 0)
    assert compare_surfaces(full, empty, 1) == Surfaces(5, 5, 0)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="shapes"):
        compare_surfaces(mask("##"), mask("###"), 1)
    with pytest.raises(ValueError, match="bool"):
        compare_surfaces(mask("##").astype(np.uint8), mask("##"), 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tolerance"):
        compare_surfaces(mask("##"), mask("##"), -1)


pairs = array_shapes(min_dims=2, max_dims=2, max_side=9).flatmap(
    lambda shape: st.tuples(arrays(np.bool_, shape), arrays(np.bool_, shape))
)


def slowly(first: Mask, second: Mask, tolerance: float) -> tuple[float, float, float]:
    """Return HD95, ASSD and NSD from all pairs of outline pixels."""
    a, b = (np.argwhere(outline(each)) for each in (first, second))
    apart = np.linalg.norm(a[:, None] - b[None], axis=2)
    there, back = apart.min(axis=1), apart.min(axis=0)
    both = np.concatenate([there, back])
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    return float(hd95), float(both.mean()), float(np.mean(both <= tolerance))


@given(pairs, st.integers(0, 5))
def test_all_pairs_give_the_same(pair: tuple[Mask, Mask], tolerance: int) -> None:
    first, second = pair
    if first.any() and second.any():
        found = compare_surfaces(first, second, tolerance)
        expected = slowly(first, second, tolerance)
        assert (found.hd95, found.assd, found.nsd) == pytest.approx(expected, abs=1e-9)


@given(pairs)
def test_range_symmetry_and_identity(pair: tuple[Mask, Mask]) -> None:
    first, second = pair
    found, back = compare_surfaces(first, second, 1), compare_surfaces(second, first, 1)
    assert (found.hd95, found.nsd) == (back.hd95, back.nsd)
    assert found.assd == pytest.approx(back.assd)
    diagonal = float(np.hypot(*first.shape))
    assert 0 <= found.hd95 <= diagonal
    assert 0 <= found.assd <= diagonal
    assert 0 <= found.nsd <= 1
    assert compare_surfaces(first, first, 0) == Surfaces(0, 0, 1)


@given(pairs)
def test_background_around_changes_nothing(pair: tuple[Mask, Mask]) -> None:
    first, second = pair
    if first.any() and second.any():
        wide = [np.pad(each, 3) for each in pair]
        assert compare_surfaces(wide[0], wide[1], 1) == compare_surfaces(first, second, 1)
