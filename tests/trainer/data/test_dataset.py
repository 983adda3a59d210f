"""Samples as tensors, augmented or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.preprocess import Preprocessing, preprocess
from cxrseg.runtime.readers import read
from cxrseg.trainer.data.augment import AugmentRecipe, augmentation
from cxrseg.trainer.data.dataset import LungDataset, balanced_weights
from cxrseg.trainer.data.loaders import train_loader
from cxrseg.trainer.data.samples import (
    Sample,
    of_split,
)
from cxrseg.trainer.recipe import Recipe, StageRecipe
from helpers.drawing import phantoms
from helpers.pairs import sample_of, save, two_lungs

PLACES = ("geometry", "mirror", "crop")
GRAY_VALUES = ("gamma", "contrast", "noise", "blur", "occlusion", "invert")


class TestDataset:
    def test_item(self, tmp_path: Path) -> None:
        item = LungDataset([sample_of(tmp_path, protocol="whole")], Preprocessing(32))[0]
        shapes = {name: (tuple(value.shape), value.dtype) for name, value in item.items()}
        assert shapes == {
            "image": ((1, 32, 32), torch.float32),
            "mask": ((3, 32, 32), torch.float32),
            "sided": ((), torch.bool),
            "protocol": ((), torch.int64),
            "index": ((), torch.int64),
        }
        assert item["sided"] and item["protocol"] == 1
        assert float(item["image"].min()) == 0 and float(item["image"].max()) == 1
        mask = item["mask"]
        assert float(mask.min()) >= 0 and float(mask.max()) == pytest.approx(1, abs=1e-6)
        assert ((mask > 0) & (mask < 1)).any(), "a mask keeps its soft edges"
        torch.testing.assert_close(mask[0] + mask[1], mask[2])
        assert mask[0, 16].argmax() < mask[1, 16].argmax()
        share = (two_lungs() > 0).mean()
        assert float(mask[2].mean()) == pytest.approx(share, abs=0.01)

    def test_image_is_what_the_runtime_makes(self, tmp_path: Path) -> None:
        sample, spec = sample_of(tmp_path), Preprocessing(48, 2, 97)
        expected = preprocess(read(sample.image).pixels, spec)
        np.testing.assert_array_equal(LungDataset([sample], spec)[0]["image"][0], expected)

    def test_sides_not_told_leave_their_planes_empty(self, tmp_path: Path) -> None:
        item = LungDataset([sample_of(tmp_path, two_lungs(255, 0))], Preprocessing(32))[0]
        assert not item["sided"]
        assert item["mask"][:2].abs().max() == 0
        assert float(item["mask"][2].max()) == pytest.approx(1, abs=1e-6)

    def test_augmented_item_keeps_its_form(self, tmp_path: Path) -> None:
        everything = {
            name: 1
            for name in (
                "geometry",
                "crop",
                "gamma",
                "contrast",
                "noise",
                "blur",
                "occlusion",
                "invert",
            )
        }
        transform = augmentation(AugmentRecipe.model_validate(everything), 32)
        spec = Preprocessing(32)
        data = LungDataset([sample_of(tmp_path)], spec, transform)
        plain = LungDataset([sample_of(tmp_path)], spec)[0]
        torch.manual_seed(0)
        for _ in range(5):
            item = data[0]
            for name, value in plain.items():
                assert item[name].shape == value.shape and item[name].dtype == value.dtype
            for name in ("image", "mask"):
                assert float(item[name].min()) >= 0 and float(item[name].max()) <= 1
                assert item[name].isfinite().all()
            assert (item["image"] - plain["image"]).abs().max() > 0.1

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
    def test_geometry_moves_image_and_mask_alike(self, geometry: dict[str, float]) -> None:
        off = dict.fromkeys(
            (
                "rotation",
                "scale",
                "shift",
                "shear",
                "crop",
                "gamma",
                "contrast",
                "noise",
                "blur",
                "occlusion",
                "invert",
            ),
            0.0,
        )
        transform = augmentation(
            AugmentRecipe.model_validate({**off, "geometry": 1, **geometry}), 64
        )
        blob = np.zeros((1, 64, 64), np.float32)
        blob[:, 12:30, 25:52] = 1
        moved = []
        for _ in range(8):
            both = transform({"image": blob.copy(), "mask": np.repeat(blob, 3, axis=0)})
            image, mask = np.asarray(both["image"]), np.asarray(both["mask"])
            for plane in mask:
                np.testing.assert_allclose(image[0], plane, atol=1e-4)
            moved.append(np.abs(image - blob).max())
        assert max(moved) > 0.5, "the blob must move"

    def test_gray_values_change_the_image_alone(self) -> None:
        recipe = AugmentRecipe(**dict.fromkeys(GRAY_VALUES, 1.0), **dict.fromkeys(PLACES, 0.0))
        phantom = phantoms.draw(0, 64)
        image = (phantom.image / 255).astype(np.float32)[None]
        mask = np.repeat((phantom.mask > 0).astype(np.float32)[None], 3, axis=0)
        varied = augmentation(recipe, 64)({"image": image.copy(), "mask": mask.copy()})
        np.testing.assert_array_equal(np.asarray(varied["mask"]), mask)
        assert np.abs(np.asarray(varied["image"]) - image).max() > 0.1

    def test_augmentation_that_is_off_changes_nothing(self) -> None:
        recipe = AugmentRecipe(**dict.fromkeys((*PLACES, *GRAY_VALUES), 0.0))
        image = np.random.default_rng(0).random((1, 64, 64)).astype(np.float32)
        varied = augmentation(recipe, 64)({"image": image.copy(), "mask": image.copy()})
        np.testing.assert_array_equal(np.asarray(varied["image"]), image)

    @pytest.mark.parametrize("power", [0, 0.5, 1])
    def test_groups_count_as_a_power_of_their_size(self, power: float, tmp_path: Path) -> None:
        file = tmp_path / "x.png"
        samples = [Sample(file, file, "train", "fields", g) for g in "a" * 16 + "b" * 4 + "c"]
        weights = balanced_weights(samples, power)
        assert sum(weights[:16]) == pytest.approx(16**power * weights[-1])
        assert sum(weights[16:20]) == pytest.approx(4**power * weights[-1])
        assert len(of_split(samples, "val")) == 0


def test_augmentation_follows_the_seed(tmp_path: Path) -> None:
    """Equal seeds vary images alike, in workers too; other seeds do not."""
    mask = two_lungs()
    save(tmp_path / "x.png", np.random.default_rng(0).integers(0, 255, mask.shape, np.uint8))
    save(tmp_path / "m.png", mask)
    sample = Sample(tmp_path / "x.png", tmp_path / "m.png", "train", "fields", "g")
    recipe = Recipe.model_validate({"image_size": 64, "data": {"workers": 2}})

    def first_batches(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        stage = StageRecipe(epochs=1, images_per_epoch=8, batch_size=4)
        loader = train_loader(recipe, stage, [sample], Preprocessing(64))
        return [batch["image"] for batch in loader]

    one, same, other = first_batches(1), first_batches(1), first_batches(2)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[0], one[1]), "each worker varies in its own way"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_went_is_told_as_it_is(workers: int, tmp_path: Path) -> None:
    """What a worker could not read reaches the training with subject, cause and remedy."""
    sample = sample_of(tmp_path)
    sample.image.unlink()
    recipe = Recipe.model_validate({"image_size": 32, "data": {"workers": workers}})
    loader = train_loader(recipe, StageRecipe(batch_size=1), [sample], Preprocessing(32))
    (batch,) = loader
    with pytest.raises(CxrsegError) as expected:
        read(sample.image)
    assert isinstance(batch, CxrsegError)
    told = (batch.subject, batch.cause, batch.remedy)
    assert told == (expected.value.subject, expected.value.cause, expected.value.remedy)
