from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cxrseg.runtime.core.labels import BACKGROUND, labels_of
from cxrseg.runtime.inference import postprocess
from cxrseg.runtime.inference.postprocess import clean_components, label_mask, upsample

FIELDS = labels_of("fields")
SIDE = 80


def lungs() -> NDArray[np.uint8]:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[15:65, 8:34], mask[15:65, 46:72] = 1, 2
    return mask


def logits_of(mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.stack([np.where(mask == x.value, 6, -6) for x in FIELDS]).astype(np.float32)


def tidied(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return label_mask(list(clean_components(logits_of(mask), FIELDS)), FIELDS)


def test_clean_lungs_and_no_lungs_stay_as_they_are() -> None:
    for mask in (lungs(), np.zeros_like(lungs())):
        logits = logits_of(mask)
        np.testing.assert_array_equal(clean_components(logits, FIELDS), logits)


def test_specks_go_and_the_input_stays() -> None:
    mask = lungs()
    mask[70:73, 20:26], mask[3:5, 60:64], mask[40, 79] = 1, 2, 2
    logits = logits_of(mask)
    out = clean_components(logits, FIELDS)
    np.testing.assert_array_equal(label_mask(list(out), FIELDS), lungs())
    np.testing.assert_array_equal(logits, logits_of(mask))
    assert out[0, 71, 22] == -6  # as sure as before


@pytest.mark.parametrize(("gap", "rows"), [(2, 4), (10, 25)], ids=["near", "large"])
def test_parts_of_a_lung_stay(gap: int, rows: int) -> None:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[10:40, 8:34], mask[10:60, 46:72] = 1, 2
    mask[40 + gap : 40 + gap + rows, 8:34] = 1
    np.testing.assert_array_equal(tidied(mask), mask)


def test_speck_of_one_lung_in_the_other_becomes_the_other() -> None:
    mask = lungs()
    logits = logits_of(mask)
    logits[0, 30:33, 60:63] = 7  # surer than the left lung, which is there as well
    np.testing.assert_array_equal(label_mask(list(clean_components(logits, FIELDS)), FIELDS), mask)


def test_small_holes_are_closed_with_the_lung_around_them() -> None:
    mask = lungs()
    mask[30:33, 55:59] = BACKGROUND
    out = clean_components(logits_of(mask), FIELDS)
    np.testing.assert_array_equal(label_mask(list(out), FIELDS), lungs())
    assert 0 < out[1, 31, 57] < 0.1  # no surer than the model


def test_large_holes_and_notches_stay() -> None:
    mask = lungs()
    mask[30:40, 50:60], mask[20:23, 8:10] = BACKGROUND, BACKGROUND
    assert postprocess.HOLE * np.count_nonzero(mask) < 10 * 10
    np.testing.assert_array_equal(tidied(mask), mask)


def test_closed_hole_stays_closed_at_full_size() -> None:
    mask = lungs()
    mask[30:33, 55:59] = BACKGROUND
    planes = [
        upsample(channel, (403, 377)) for channel in clean_components(logits_of(mask), FIELDS)
    ]
    whole = label_mask(planes, FIELDS)
    rows, columns = np.nonzero(whole == 2)
    box = whole[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert (box == 2).mean() > 0.99


def test_one_lung_alone() -> None:
    label = FIELDS[:1]
    logits = logits_of(np.where(lungs() == 2, 0, lungs()).astype(np.uint8))[:1]
    logits[0, 76:78, 76:78] = 6
    assert not (clean_components(logits, label)[0, 70:] > 0).any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("channel", [0, 1])
def test_what_is_no_number_becomes_no_lung(value: float, channel: int) -> None:
    planes = logits_of(lungs())
    planes[channel, 40, 40] = value
    with pytest.raises(ValueError, match="not finite"):
        label_mask(list(planes), FIELDS)
    with pytest.raises(ValueError, match="not finite"):
        label_mask([np.full((2, 2), -np.inf, np.float32)] * 2, FIELDS)
