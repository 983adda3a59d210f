"""The drawn chest X-rays: reproducible, anatomically plausible, correctly labelled."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.drawing import phantoms


@pytest.mark.parametrize("seed", [0, 7, 123])
def test_same_seed_gives_the_same_image(seed: int) -> None:
    first, second = phantoms.draw(seed, 96), phantoms.draw(seed, 96)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.mask, second.mask)


def test_seeds_differ() -> None:
    assert (phantoms.draw(1, 96).image != phantoms.draw(2, 96).image).any()
    assert (phantoms.draw(1, 96).mask != phantoms.draw(2, 96).mask).any()


@pytest.mark.parametrize(
    ("size", "shape"), [(64, (64, 64)), (256, (256, 256)), ((200, 150), (200, 150))]
)
def test_size_and_types(size: int | tuple[int, int], shape: tuple[int, int]) -> None:
    phantom = phantoms.draw(3, size)
    assert phantom.image.shape == phantom.mask.shape == shape
    assert phantom.image.dtype == phantom.mask.dtype == np.uint8


def test_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="48"):
        phantoms.draw(0, 40)


@pytest.mark.parametrize("seed", range(40))
def test_both_lungs_stand_on_their_sides(seed: int) -> None:
    phantom = phantoms.draw(seed, 128)
    assert set(np.unique(phantom.mask)) == {0, phantoms.RIGHT, phantoms.LEFT}
    right, left = phantom.mask == phantoms.RIGHT, phantom.mask == phantoms.LEFT
    for lung in (right, left):
        assert 0.05 < lung.mean() < 0.35
        assert cv2.connectedComponents(lung.astype(np.uint8))[0] == 2
    # The patient's right lung is on the left of the image, and the heart keeps them apart.
    assert np.nonzero(right)[1].max() < np.nonzero(left)[1].min()
    assert right.sum() > 0.9 * left.sum()


@pytest.mark.parametrize("seed", range(40))
def test_lungs_are_darker_than_the_mediastinum(seed: int) -> None:
    phantom = phantoms.draw(seed, 128)
    lungs = phantom.mask > 0
    rows = np.flatnonzero((phantom.mask == 1).any(1) & (phantom.mask == 2).any(1))
    between = [
        phantom.image[row, np.flatnonzero(phantom.mask[row] == 1)[-1] + 1 : start]
        for row in rows
        for start in [np.flatnonzero(phantom.mask[row] == 2)[0]]
    ]
    mediastinum = float(np.concatenate(between).mean())
    assert mediastinum > phantom.image[lungs].mean() + 25


def test_anatomy_does_not_depend_on_the_size() -> None:
    small, large = phantoms.draw(5, 128).mask, phantoms.draw(5, 256).mask
    shrunk = cv2.resize(large, (128, 128), interpolation=cv2.INTER_NEAREST)
    assert (small == shrunk).mean() > 0.98


def test_command_writes_the_folder_layout(tmp_path: Path) -> None:
    counts = ["--train", "2", "--val", "1", "--test", "1"]
    phantoms.main([str(tmp_path), *counts, "--size", "64", "--seed", "9"])
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    assert written == [
        f"{split}/{kind}/phantom_{number:04d}.png"
        for split, count in (("test", 1), ("train", 2), ("val", 1))
        for kind in ("images", "masks")
        for number in range(count)
    ]
    mask = cv2.imread(str(tmp_path / "train/masks/phantom_0000.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask, phantoms.draw(9, 64).mask)
    images = [path.read_bytes() for path in tmp_path.rglob("images/*.png")]
    assert len(set(images)) == 4, "no phantom may stand in two splits"


def test_command_refuses_nonsense(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        phantoms.main([str(tmp_path), "--train", "-1"])
    assert stop.value.code == 2
