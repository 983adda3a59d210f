"""Augmentation of batches: image and mask move alike, gray values change in the image alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cxrseg.runtime.core.preprocess import Preprocessing, window
from cxrseg.trainer.data.augment import vary
from cxrseg.trainer.data.planes import planes_of, windowed
from cxrseg.trainer.recipe import AugmentRecipe
from helpers.drawing import phantoms

PLACES = ("geometry", "mirror", "crop")
GRAY_VALUES = (
    "gamma",
    "contrast",
    "noise",
    "blur",
    "occlusion",
    "invert",
    "opacity",
    "exposure",
)
OFF = dict.fromkeys((*PLACES, *GRAY_VALUES, "rotation", "scale", "shift", "shear"), 0.0)


def recipe(**settings: float) -> AugmentRecipe:
    return AugmentRecipe.model_validate({**OFF, **settings})


def chest(count: int = 4) -> tuple[Tensor, Tensor]:
    """Return phantoms float32 [N, 1, 64, 64] and their planes [N, 4, 64, 64]."""
    drawn = [phantoms.draw(seed, 64) for seed in range(count)]
    image = torch.stack([torch.from_numpy(x.image.astype(np.float32)) / 255 for x in drawn])
    labels = torch.stack([torch.from_numpy(x.mask.astype(np.uint8)) for x in drawn])
    return image[:, None], planes_of(labels[:, None], torch.ones(count, dtype=torch.bool))


@pytest.mark.parametrize(
    "geometry",
    [
        {"rotation": 40},
        {"scale": 0.4},
        {"shift": 0.2},
        {"shear": 0.4},
        {"crop": 1},
        {"rotation": 20, "scale": 0.3, "shift": 0.1, "shear": 0.1, "crop": 1},
    ],
    ids=lambda options: "+".join(options),
)
def test_geometry_moves_image_and_mask_alike(geometry: dict[str, float]) -> None:
    torch.manual_seed(0)
    blob = torch.zeros(8, 1, 64, 64)
    blob[..., 12:30, 25:52] = 1
    image, planes = vary(blob, blob.repeat(1, 3, 1, 1), recipe(geometry=1, **geometry))
    torch.testing.assert_close(image.expand_as(planes), planes, rtol=0, atol=1e-4)
    assert (image - blob).abs().amax((1, 2, 3)).max() > 0.5, "the blob must move"


def test_masks_of_another_size_move_alike() -> None:
    torch.manual_seed(1)
    blob = torch.zeros(8, 1, 64, 64)
    blob[..., 16:40, 24:52] = 1
    half = torch.nn.functional.avg_pool2d(blob, 2)
    settings = recipe(geometry=1, rotation=15, shift=0.1)
    image, planes = vary(blob, half.repeat(1, 3, 1, 1), settings)
    small = torch.nn.functional.avg_pool2d(image, 2)
    assert (small.expand_as(planes) - planes).abs().mean() < 0.02


def test_strengths_are_limits() -> None:
    torch.manual_seed(2)
    point = torch.zeros(200, 1, 65, 65)
    point[..., 32, 32] = 1
    image, _ = vary(point, point.repeat(1, 3, 1, 1), recipe(geometry=1, shift=0.1))
    places = image.flatten(1).argmax(1)
    away = torch.stack([places // 65 - 32, places % 65 - 32]).abs().max()
    assert 4 <= away <= 7, "a tenth of 65 pixels at most"


def test_a_mirror_image_swaps_the_lungs() -> None:
    image, planes = chest()
    mirrored, swapped = vary(image, planes, recipe(mirror=1))
    torch.testing.assert_close(mirrored, image.flip(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(swapped, planes.flip(3)[:, [1, 0, 2, 3]], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", GRAY_VALUES)
def test_gray_values_change_the_image_alone(name: str) -> None:
    torch.manual_seed(3)
    image, planes = chest()
    before = image.clone()
    changed, same = vary(image, planes, recipe(**{name: 1.0}))
    assert torch.equal(same, planes) and torch.equal(image, before)
    assert changed.isfinite().all()
    assert ((changed - image).abs().amax((1, 2, 3)) > 0.01).all()


def test_each_image_is_drawn_for_itself() -> None:
    torch.manual_seed(4)
    image, planes = chest(1)
    image, planes = image.repeat(64, 1, 1, 1), planes.repeat(64, 1, 1, 1)
    changed, _ = vary(image, planes, recipe(noise=0.5))
    touched = (changed != image).flatten(1).any(1).float().mean()
    assert 0.25 < touched < 0.75


def test_augmentation_that_is_off_changes_nothing() -> None:
    image, planes = chest()
    same, mask = vary(image, planes, recipe())
    assert torch.equal(same, image) and torch.equal(mask, planes)


class TestWindow:
    @pytest.mark.parametrize("kind", ["chest", "framed", "flat", "two values", "noise"])
    def test_it_is_the_runtimes(self, kind: str) -> None:
        generator = np.random.default_rng(5)
        pixels = {
            "chest": lambda: phantoms.draw(7, 64).image.astype(np.float32) / 255,
            "framed": lambda: np.pad(generator.random((48, 40), np.float32), ((9, 7), (4, 20))),
            "flat": lambda: np.full((64, 64), 0.3, np.float32),
            "two values": lambda: np.pad(np.ones((1, 1), np.float32), ((0, 63), (0, 63))),
            "noise": lambda: generator.random((64, 64), np.float32),
        }[kind]()
        spec = Preprocessing(64)
        found = windowed(torch.from_numpy(pixels)[None, None], spec)[0, 0].numpy()
        np.testing.assert_allclose(found, window(pixels, spec.low, spec.high), atol=2e-6)

    def test_fewer_pixels_give_nearly_the_same(self) -> None:
        pixels = phantoms.draw(3, 384).image.astype(np.float32) / 255
        image, spec = torch.from_numpy(pixels)[None, None], Preprocessing(384)
        assert (windowed(image, spec) - windowed(image, spec, 3)).abs().mean() < 0.01
