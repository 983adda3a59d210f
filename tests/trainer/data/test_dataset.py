"""Samples as tensors: bytes in memory, and what the network takes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.preprocess import Preprocessing, preprocess
from cxrseg.runtime.readers import read
from cxrseg.trainer.data.dataset import Batch, LungDataset, balanced_weights, prepared, varied
from cxrseg.trainer.data.loaders import train_loader
from cxrseg.trainer.data.samples import Sample, of_split
from cxrseg.trainer.recipe import AugmentRecipe, Recipe, StageRecipe
from helpers.pairs import sample_of, save, two_lungs

FORMS = {
    "image": (1, 1, 32, 32),
    "mask": (1, 4, 32, 32),
    "sided": (1,),
    "heart": (1,),
    "protocol": (1,),
    "index": (1,),
}


def batch_of(sample: Sample, spec: Preprocessing) -> Batch:
    return prepared(LungDataset([sample], spec)[0], spec)


class TestDataset:
    def test_batch(self, tmp_path: Path) -> None:
        batch = batch_of(sample_of(tmp_path, protocol="whole"), Preprocessing(32))
        assert {name: tuple(value.shape) for name, value in batch.items()} == FORMS
        assert batch["sided"].all() and (batch["protocol"] == 1).all()
        assert float(batch["image"].min()) == 0 and float(batch["image"].max()) == 1
        mask = batch["mask"][0]
        torch.testing.assert_close(mask[0] + mask[1], mask[2])
        assert mask[0, 16].argmax() < mask[1, 16].argmax()
        share = (two_lungs() > 0).mean()
        assert float(mask[2].mean()) == pytest.approx(share, abs=0.03)

    def test_memory_holds_a_byte_a_pixel(self, tmp_path: Path) -> None:
        batch = LungDataset([sample_of(tmp_path)], Preprocessing(32))[0]
        for name in ("image", "mask"):
            assert batch[name].dtype == torch.uint8 and batch[name].shape == (1, 1, 32, 32)

    def test_image_is_what_the_runtime_makes_but_for_its_bytes(self, tmp_path: Path) -> None:
        sample, spec = sample_of(tmp_path), Preprocessing(48, 2, 97)
        expected = preprocess(read(sample.image).pixels, spec)
        found = batch_of(sample, spec)["image"][0, 0].numpy()
        assert np.abs(found - expected).max() < 2 / 255

    def test_borders_are_left_out_of_image_and_mask(self, tmp_path: Path) -> None:
        inner, spec = sample_of(tmp_path), Preprocessing(64)
        framed = {}
        for name, border in (("image", 255), ("mask", 0)):
            pixels = cv2.imread(str(getattr(inner, name)), cv2.IMREAD_UNCHANGED)
            framed[name] = tmp_path / f"framed-{name}.png"
            save(framed[name], cv2.copyMakeBorder(pixels, 90, 70, 80, 60, 0, value=border))
        outer = Sample(framed["image"], framed["mask"], "train", "fields", "g")
        for name in ("image", "mask"):
            one, other = (batch_of(sample, spec)[name] for sample in (inner, outer))
            assert (one - other).abs().mean() < 0.02, name

    def test_sides_not_told_leave_their_planes_empty(self, tmp_path: Path) -> None:
        batch = batch_of(sample_of(tmp_path, two_lungs(255, 0)), Preprocessing(32))
        assert not batch["sided"].any()
        assert batch["mask"][0, :2].abs().max() == 0
        assert float(batch["mask"][0, 2].max()) == 1

    def test_the_heart_has_a_plane_of_its_own(self, tmp_path: Path) -> None:
        sample, spec = sample_of(tmp_path), Preprocessing(32)
        without = batch_of(sample, spec)
        assert not without["heart"].any() and without["mask"][0, 3].max() == 0
        lungs = two_lungs()
        heart = np.zeros_like(lungs)
        height, width = heart.shape
        heart[height // 2 : height * 3 // 4, width // 3 : width * 2 // 3] = 255
        save(tmp_path / "heart.png", heart)
        batch = batch_of(replace(sample, heart=tmp_path / "heart.png"), spec)
        assert batch["heart"].all()
        torch.testing.assert_close(batch["mask"][:, :3], without["mask"][:, :3])
        share = (heart > 0).mean()
        assert float(batch["mask"][0, 3].mean()) == pytest.approx(share, abs=0.03)

    def test_files_are_read_once(self, tmp_path: Path) -> None:
        sample = sample_of(tmp_path)
        data = LungDataset([sample], Preprocessing(32))
        before = data[0]["image"]
        sample.image.unlink()
        assert torch.equal(data[0]["image"], before)

    def test_a_varied_batch_has_masks_of_half_the_side(self, tmp_path: Path) -> None:
        spec = Preprocessing(32)
        kept = LungDataset([sample_of(tmp_path)], spec)[0]
        plain = prepared(kept, spec)
        torch.manual_seed(0)
        for _ in range(5):
            batch = varied(kept, spec, AugmentRecipe(geometry=1, opacity=1))
            assert batch["image"].shape == (1, 1, 32, 32)
            assert batch["mask"].shape == (1, 4, 16, 16)
            for name in ("image", "mask"):
                assert float(batch[name].min()) >= 0 and float(batch[name].max()) <= 1
                assert batch[name].isfinite().all()
            assert (batch["image"] - plain["image"]).abs().max() > 0.1

    @pytest.mark.parametrize("power", [0, 0.5, 1])
    def test_groups_count_as_a_power_of_their_size(self, power: float, tmp_path: Path) -> None:
        file = tmp_path / "x.png"
        samples = [Sample(file, file, "train", "fields", g) for g in "a" * 16 + "b" * 4 + "c"]
        weights = balanced_weights(samples, power)
        assert sum(weights[:16]) == pytest.approx(16**power * weights[-1])
        assert sum(weights[16:20]) == pytest.approx(4**power * weights[-1])
        assert len(of_split(samples, "val")) == 0


def test_a_file_that_went_is_told_as_it_is(tmp_path: Path) -> None:
    """What cannot be read reaches the training with subject, cause and remedy."""
    sample = sample_of(tmp_path)
    sample.image.unlink()
    recipe = Recipe.model_validate({"image_size": 32})
    loader = train_loader(recipe, StageRecipe(batch_size=1), [sample], Preprocessing(32))
    with pytest.raises(CxrsegError, match=r"no such file") as found:
        next(iter(loader))
    assert found.value.subject == str(sample.image)


def test_batches_follow_the_seed(tmp_path: Path) -> None:
    """Equal seeds draw and vary images alike; other seeds do not."""
    mask = two_lungs()
    save(tmp_path / "x.png", np.random.default_rng(0).integers(0, 255, mask.shape, np.uint8))
    save(tmp_path / "m.png", mask)
    sample = Sample(tmp_path / "x.png", tmp_path / "m.png", "train", "fields", "g")
    recipe, spec = Recipe.model_validate({"image_size": 64}), Preprocessing(64)

    def first_batches(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        stage = StageRecipe(epochs=1, images_per_epoch=8, batch_size=4)
        loader = train_loader(recipe, stage, [sample], spec)
        return [varied(batch, spec, recipe.augment)["image"] for batch in loader]

    one, same, other = first_batches(1), first_batches(1), first_batches(2)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])
