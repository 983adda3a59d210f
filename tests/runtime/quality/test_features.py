from __future__ import annotations

import numpy as np
import pytest

from cxrseg.runtime.quality import features
from cxrseg.runtime.quality.outline_flags import cut_rule
from helpers.drawing import phantoms


def test_mirror_image_has_the_asymmetry_with_the_other_sign() -> None:
    phantom = phantoms.draw(4, 320)
    cells = features.thumbnail(np.asarray(phantom.image / 255, np.float32))
    lungs = features.shape(phantoms.draw(4, features.GRID).mask)
    assert cells is not None and lungs is not None
    there = features.asymmetry(cells, [lungs, lungs])
    back = features.asymmetry(np.fliplr(cells), [features.mirrored_shape(lungs)] * 2)
    np.testing.assert_allclose(back, -there, atol=1e-9)
    assert np.abs(there).max() > 0.01


def test_mirrored_shape_is_the_shape_of_the_mirrored_mask() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[10:50, 8:24], mask[12:40, 38:58], mask[12:20, 38:45] = 1, 2, 0
    swapped = np.array([0, 2, 1], np.uint8)[mask][:, ::-1].copy()
    there = features.shape(mask)
    assert there is not None
    np.testing.assert_allclose(features.mirrored_shape(there), features.shape(swapped), atol=1e-9)
    assert features.shape(np.zeros((64, 64), np.uint8)) is None


def test_thumbnail_ignores_gray_scale_and_border() -> None:
    pixels = np.asarray(phantoms.draw(2, 320).image / 255, np.float32)
    plain = features.thumbnail(pixels)
    assert plain is not None and plain.shape == (features.CELLS, features.CELLS)
    assert plain.mean() == pytest.approx(0, abs=1e-6) and plain.std() == pytest.approx(1, abs=1e-6)
    framed = features.thumbnail(np.pad(0.2 + 0.5 * pixels, 60))
    assert framed is not None and np.abs(framed - plain).max() < 0.6
    assert features.thumbnail(np.zeros((50, 50), np.float32)) is None


def test_lungs_cut_off_by_the_border() -> None:
    mask = np.zeros((features.GRID, features.GRID), np.uint8)
    mask[30:, 10:26], mask[20:52, 60:] = 1, 2
    assert features.cut_off(mask) == {"upper": 0, "lower": 16 / 64, "left": 0, "right": 0.5}
    assert [cut_rule(side) for side in ("upper", "right")] == [
        "cropped_upper",
        "cropped_side",
    ]
