"""Learning from another network's masks: what the student takes over, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from torch import Tensor

from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.trainer.fit.checkpoint import Description, save
from cxrseg.trainer.fit.distillation import Teacher, distillation_loss, load_teacher
from cxrseg.trainer.fit.losses import bce_dice
from cxrseg.trainer.networks.unet import UNet, UNetArchitecture

Call = Callable[..., Any]

BOTH = ("right_lung", "left_lung", "right_lung_whole", "left_lung_whole")

TINY = UNetArchitecture((4, 4, 4, 4, 4))

RECIPE = """
model: vit_n
image_size: 96
method: full
augment:
  {geometry: 0, mirror: 0, crop: 0, gamma: 0, contrast: 0, noise: 0, blur: 0, occlusion: 0,
   invert: 0}
data: {max_odd: 1}
stage1:
  {epochs: 3, images_per_epoch: 480, batch_size: 8, lr: 0.003, decoder_lr: 0.003, distillation: 1}
"""


@pytest.fixture
def unet_file(tmp_path: Path) -> Path:
    """Write a U-Net for 64 pixels and four channels, with random weights."""
    torch.manual_seed(3)
    network = UNet(TINY, 64, BOTH).eval()
    path = tmp_path / "unet.ckpt"
    save(network, Description(TINY, BOTH, Preprocessing(64)), path)
    return path


@pytest.fixture
def teacher(unet_file: Path) -> Teacher:
    return load_teacher(unet_file)


def loss_of(teachers: list[Teacher], image: Tensor, logits: Tensor, *labels: str) -> float:
    return float(distillation_loss(teachers, image, logits, labels))


class TestTeacher:
    def test_finds_what_its_network_finds(self, teacher: Teacher, images: Tensor) -> None:
        with torch.no_grad():
            torch.testing.assert_close(teacher.logits(images), teacher.model(images))

    def test_is_shown_images_of_its_own_size(self, teacher: Teacher) -> None:
        large = torch.rand(1, 1, 96, 96, generator=torch.Generator().manual_seed(4))
        assert teacher.logits(large).shape == (1, 4, 16, 16)

    def test_may_be_a_sam(self, base_run: Path) -> None:
        teacher = load_teacher(base_run / "model.ckpt")
        assert (teacher.size, teacher.labels) == (96, ("right_lung", "left_lung"))

    def test_nearer_is_better_and_only_the_student_learns(
        self, teacher: Teacher, images: Tensor
    ) -> None:
        wanted = teacher.logits(images)[:, :2]
        logits = (wanted + 3).requires_grad_()
        distillation_loss([teacher], images, logits, BOTH[:2]).backward()
        assert logits.grad is not None
        assert (logits.grad > 0).all(), "all logits are too high"
        assert all(p.grad is None for p in teacher.model.parameters())
        losses = [loss_of([teacher], images, wanted + off, *BOTH[:2]) for off in (0, 1, 3)]
        assert losses == sorted(losses)

    def test_teaches_the_channels_in_common(self, teacher: Teacher, images: Tensor) -> None:
        logits = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(6))
        target = teacher.logits(images)[:, 1].sigmoid()
        wanted = float(bce_dice(logits[:, 1], target).mean())
        found = loss_of([teacher], images, logits, "heart", "left_lung")
        assert found == pytest.approx(wanted)

    def test_several_teach_by_the_mean_of_their_logits(
        self, teacher: Teacher, images: Tensor
    ) -> None:
        torch.manual_seed(7)
        network = UNet(TINY, 64, BOTH[:1]).eval().requires_grad_(False)
        other = Teacher(network, BOTH[:1], 64)
        logits = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(8))
        mean = (teacher.logits(images)[:, 0] + other.logits(images)[:, 0]) / 2
        known_to_one = teacher.logits(images)[:, 1]
        targets = torch.stack([mean, known_to_one]).sigmoid()
        wanted = float(bce_dice(logits.transpose(0, 1).flatten(0, 1), targets.flatten(0, 1)).mean())
        found = loss_of([teacher, other], images, logits, *BOTH[:2])
        assert found == pytest.approx(wanted)


def test_the_student_learns_what_the_teacher_finds(
    call: Call, phantom_data: Path, base_run: Path, tmp_path: Path
) -> None:
    data = tmp_path / "xrays"
    shutil.copytree(phantom_data, data)
    for path in (data / "train" / "masks").iterdir():
        upside_down = cv2.flip(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), 0)
        assert cv2.imwrite(str(path), upside_down)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    options = ("--recipe", tmp_path / "recipe.yaml", "--stage", "1")
    teachers = ("--teacher", base_run / "model.ckpt") * 2
    done = call("train", data, "-o", tmp_path / "run", *options, *teachers)
    assert done.code == 0, done.err[-2000:]
    report = json.loads((tmp_path / "run" / "stage1.json").read_text())
    assert report["metrics"]["val_dice"] > 0.8, "the validation masks are not upside down"


class TestRefusals:
    def start(self, call_here: Call, data: Path, folder: Path, recipe: str, *more: object) -> str:
        (folder / "recipe.yaml").write_text(recipe)
        options = ("--recipe", folder / "recipe.yaml", "--stage", "1", *more)
        done = call_here("train", data, "-o", folder / "run", *options)
        assert done.code == 1
        assert not (folder / "run" / "stage1").exists()
        (line,) = done.errors
        return str(line)

    def test_a_share_without_a_teacher(
        self, call_here: Call, small_data: Path, tmp_path: Path
    ) -> None:
        line = self.start(call_here, small_data, tmp_path, RECIPE)
        assert "distillation" in line and "--teacher" in line

    def test_a_teacher_without_a_share(
        self, call_here: Call, small_data: Path, unet_file: Path, tmp_path: Path
    ) -> None:
        recipe = RECIPE.replace("distillation: 1", "distillation: 0")
        line = self.start(call_here, small_data, tmp_path, recipe, "--teacher", unet_file)
        assert str(unet_file) in line and "distillation is 0" in line

    def test_a_teacher_of_other_labels(
        self, call_here: Call, small_data: Path, base_run: Path, tmp_path: Path
    ) -> None:
        more = ("--labels", "whole", "--teacher", base_run / "model.ckpt")
        data = tmp_path / "pairs.csv"
        rows = [
            f"{image},{image.parents[1] / 'masks' / image.name},{split},whole"
            for split in ("train", "val")
            for image in sorted((small_data / split / "images").iterdir())
        ]
        data.write_text("\n".join(["image,mask,split,protocol", *rows]))
        line = self.start(call_here, data, tmp_path, RECIPE, *more)
        assert "has the labels right_lung, left_lung" in line

    @pytest.mark.parametrize("content", [None, b"", b"not a checkpoint"])
    def test_a_file_that_is_no_network(
        self, content: bytes | None, call_here: Call, small_data: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "teacher.ckpt"
        if content is not None:
            path.write_bytes(content)
        line = self.start(call_here, small_data, tmp_path, RECIPE, "--teacher", path)
        assert "teacher.ckpt" in line

    def test_a_damaged_unet(
        self, call_here: Call, small_data: Path, unet_file: Path, tmp_path: Path
    ) -> None:
        checkpoint = torch.load(unet_file, weights_only=True)
        checkpoint["hyper_parameters"]["architecture"]["channels"] = [8, 8, 8]
        torch.save(checkpoint, unet_file)
        line = self.start(call_here, small_data, tmp_path, RECIPE, "--teacher", unet_file)
        assert "unet.ckpt: not a checkpoint of cxrseg-train" in line

    def test_another_teacher_when_resumed(
        self, call_here: Call, phantom_data: Path, base_run: Path, unet_file: Path
    ) -> None:
        same = ("--recipe", base_run.parent / "recipe.yaml", "--method", "full", "--stage", "1")
        done = call_here(
            "train", phantom_data, "-o", base_run, "--resume", *same, "--teacher", unet_file
        )
        assert "another teacher_sha256" in done.errors[0]
