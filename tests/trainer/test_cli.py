"""``cxrseg-train`` as a user meets it: what it shows, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cxrseg.trainer.recipe import Recipe
from cxrseg.trainer.recipe_file import read_recipe
from helpers.drawing import phantoms
from helpers.outcomes import Call, refused


class TestRefusals:
    def test_average_of_adapters(
        self, call_here: Call, recipe: Callable[[str], Path], tmp_path: Path
    ) -> None:
        settings = recipe("stage1: {ema: 0.9}\n")
        data = ("--recipe", settings, "--method", "adalora")
        done = call_here("train", tmp_path, "-o", tmp_path / "run", *data)
        refused(done, 1, "ema is for stage 1")

    def test_average_with_nothing(
        self,
        call_here: Call,
        recipe: Callable[[str], Path],
        small_data: Path,
        base_run: Path,
        tmp_path: Path,
    ) -> None:
        average = ("--recipe", recipe(""), "--soup", base_run / "model.ckpt")
        done = call_here("train", small_data, "-o", tmp_path / "run", *average)
        refused(done, 1, "--soup", "--checkpoint")

    def test_mislabeled_among_one_protocol(
        self, call_here: Call, recipe: Callable[[str], Path], tmp_path: Path
    ) -> None:
        settings = recipe("stage1: {skip_mislabeled: true}\n")
        done = call_here("train", tmp_path, "-o", tmp_path / "run", "--recipe", settings)
        refused(done, 1, "skip_mislabeled is for labels of both protocols")

    def test_devices_that_are_not_there(
        self, call_here: Call, recipe: Callable[[str], Path], small_data: Path, tmp_path: Path
    ) -> None:
        if torch.cuda.is_available():
            pytest.skip("there is one")
        settings = recipe("accelerator: gpu\n")
        done = call_here("train", small_data, "-o", tmp_path / "run", "--recipe", settings)
        refused(done, 1, "accelerator gpu", "cannot be used")

    def test_help_lists_the_options(self, call_here: Call) -> None:
        done = call_here("train", "--help")
        assert done.code == 0
        for option in (
            "--output",
            "--model",
            "--checkpoint",
            "--method",
            "--stage",
            "--labels",
            "--image-size",
            "--recipe",
            "--resume",
            "--show-recipe",
            "--version",
        ):
            assert option in done.out

    def test_shown_recipe_is_the_default(self, call_here: Call, tmp_path: Path) -> None:
        done = call_here("train", "--show-recipe")
        assert done.code == 0
        (tmp_path / "shown.yaml").write_text(done.out)
        assert read_recipe(tmp_path / "shown.yaml", {}) == Recipe()

    @pytest.mark.parametrize(
        "args",
        [
            ("-o", "run"),
            ("xrays",),
            ("xrays", "-o", "run", "--model", "vit_x"),
            ("xrays", "-o", "run", "--stage", "3"),
            ("xrays", "-o", "run", "--image-size", "large"),
            ("xrays", "-o", "run", "--colour"),
        ],
    )
    def test_wrong_usage(self, args: tuple[str, ...], call_here: Call) -> None:
        refused(call_here("train", *args), 2)

    def test_missing_data(self, call_here: Call, tmp_path: Path) -> None:
        done = call_here("train", tmp_path / "none", "-o", tmp_path / "run")
        refused(done, 1, str(tmp_path / "none"), "no such file or folder")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--image-size", "100"), ("--image-size", "multiple of 16")),
            (("--labels", "heart"), ("labels",)),
            (("--labels", ""), ("--labels",)),
            (("--recipe", "none.yaml"), ("none.yaml", "no such file")),
        ],
    )
    def test_bad_options(
        self,
        options: tuple[str, ...],
        words: tuple[str, ...],
        call_here: Call,
        small_data: Path,
        tmp_path: Path,
    ) -> None:
        refused(call_here("train", small_data, "-o", tmp_path / "run", *options), 1, *words)
        assert not (tmp_path / "run").exists()

    def test_unknown_recipe_key(
        self, call_here: Call, small_data: Path, recipe: Callable[[str], Path], tmp_path: Path
    ) -> None:
        path = recipe("stage1: {lerning_rate: 1}")
        done = call_here("train", small_data, "-o", tmp_path / "run", "--recipe", path)
        refused(done, 1, "recipe.yaml", "stage1.lerning_rate")

    def test_missing_split(self, call_here: Call, tmp_path: Path) -> None:
        phantoms.write_dataset(tmp_path / "xrays", {"train": 1, "test": 1}, 64, 0)
        done = call_here("train", tmp_path / "xrays", "-o", tmp_path / "run")
        refused(done, 1, "no image of split 'val'")

    def test_no_image_of_the_protocol(
        self, call_here: Call, small_data: Path, tmp_path: Path
    ) -> None:
        done = call_here("train", small_data, "-o", tmp_path / "run", "--labels", "whole")
        refused(done, 1, "no image of split 'train' with a mask of protocol whole")

    def test_bad_pair(self, call_here: Call, tmp_path: Path) -> None:
        phantoms.write_dataset(tmp_path / "xrays", {"train": 2, "val": 1}, 64, 0)
        mask = tmp_path / "xrays/train/masks/phantom_0001.png"
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(mask)
        done = call_here("train", tmp_path / "xrays", "-o", tmp_path / "run", "--method", "full")
        refused(done, 1, str(mask), "the mask is empty")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("method", ["adalora", "decoder"])
    def test_adapting_nothing(
        self, method: str, call_here: Call, small_data: Path, tmp_path: Path
    ) -> None:
        done = call_here("train", small_data, "-o", tmp_path / "run", "--method", method)
        refused(done, 1, f"--method {method}", "--checkpoint")

    def test_stage_2_of_nothing(self, call_here: Call, small_data: Path, tmp_path: Path) -> None:
        done = call_here("train", small_data, "-o", tmp_path / "run", "--stage", "2")
        refused(done, 1, "--stage 2", "--checkpoint")

    def test_stage_2_of_a_unet(self, call_here: Call, small_data: Path, tmp_path: Path) -> None:
        options = ("--model", "unet", "--stage", "all")
        done = call_here("train", small_data, "-o", tmp_path / "run", *options)
        refused(done, 1, "--stage all: a U-Net has no stage 2; leave --stage out")

    def test_missing_checkpoint(self, call_here: Call, small_data: Path, tmp_path: Path) -> None:
        options = ("--checkpoint", tmp_path / "none.ckpt")
        done = call_here("train", small_data, "-o", tmp_path / "run", *options)
        refused(done, 1, "none.ckpt", "no such file")

    @pytest.mark.parametrize("options", [("--method", "adalora"), ("--stage", "2")])
    def test_a_refused_run_leaves_its_folder_free(
        self, options: tuple[str, ...], call_here: Call, small_data: Path, tmp_path: Path
    ) -> None:
        call_here("train", small_data, "-o", tmp_path / "run", *options)
        assert not (tmp_path / "run").exists()

    def test_resume_without_a_run(self, call_here: Call, small_data: Path, tmp_path: Path) -> None:
        done = call_here("train", small_data, "-o", tmp_path / "run", "--resume")
        refused(done, 1, "no run to resume there")
        assert not (tmp_path / "run").exists()

    def test_quantizing_twice(
        self, call_here: Call, small_data: Path, fine_run: Path, tmp_path: Path
    ) -> None:
        options = ("--stage", "2", "--checkpoint", fine_run / "model.ckpt")
        done = call_here("train", small_data, "-o", tmp_path / "run", *options)
        refused(done, 1, "is quantized already")

    def test_average_with_adapters_that_are_not_merged(
        self, call_here: Call, small_data: Path, base_run: Path, fine_run: Path, tmp_path: Path
    ) -> None:
        average = ("--soup", base_run / "model.ckpt", "-o", tmp_path / "run")
        start = ("--stage", "2", "--checkpoint", fine_run / "stage1.ckpt")
        done = call_here("train", small_data, *average, *start)
        refused(done, 1, "has adapters", "swap")

    def test_unwritable_folder(self, call_here: Call, small_data: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        done = call_here("train", small_data, "-o", tmp_path / "file/run", "--method", "full")
        refused(done, 1, "cannot be written")
