"""``cxrseg-train --model unet``: trained, interrupted, resumed, refused what it cannot do."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cxrseg.trainer.fit.checkpoint import load
from cxrseg.trainer.networks.unet import UNet
from cxrseg.trainer.recipe_file import read_recipe

Call = Callable[..., Any]

RECIPE = """
model: unet
unet: {channels: [4, 8, 8]}
image_size: 64
checkpoint_minutes: 0.0001
stage1: {epochs: 3, images_per_epoch: 40, batch_size: 4, ema: 0.9}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_a_killed_run_goes_on_and_another_starts_from_it(
    commands: Any, call: Call, small_data: Path, recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    args = (small_data, "-o", run, "--recipe", recipe)
    line = commands.line("train", *args)
    with subprocess.Popen(line, env=commands.environment(), stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 120
        while not (run / "stage1/last.ckpt").is_file() and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    saved = torch.load(run / "stage1/last.ckpt", weights_only=True)
    assert 0 < saved["global_step"] < 30 and not (run / "model.ckpt").exists()
    done = call("train", *args, "--resume")
    assert done.code == 0, done.err[-2000:]
    loaded = load(run / "model.ckpt")
    assert isinstance(loaded.model, UNet)
    assert loaded.model.architecture.channels == (4, 8, 8)
    assert (loaded.description.stage, loaded.description.images) == (1, 120)
    assert not (run / "stage2").exists()

    again = (small_data, "-o", tmp_path / "again", "--recipe", recipe)
    done = call("train", *again, "--checkpoint", run / "model.ckpt")
    assert done.code == 0, done.err[-2000:]
    assert load(tmp_path / "again/model.ckpt").description.images == 240
    report = json.loads((tmp_path / "again/stage1.json").read_text())
    assert report["images"] == 120 and report["trainable"] == report["total"]

    two = call(
        "train",
        small_data,
        "-o",
        tmp_path / "two",
        "--stage",
        "2",
        "--checkpoint",
        run / "model.ckpt",
    )
    assert two.code == 1 and "has no quantization-aware training" in two.errors[0]


@pytest.mark.parametrize("stage", ["2", "all"])
def test_stage_2_is_refused(
    stage: str, call_here: Call, small_data: Path, recipe: Path, tmp_path: Path
) -> None:
    options = ("--recipe", recipe, "--stage", stage)
    done = call_here("train", small_data, "-o", tmp_path / "run", *options)
    assert done.code == 1
    assert f"--stage {stage}" in done.errors[0] and "cxrseg-export" in done.errors[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("method: decoder\n", "neither adapters nor a mask decoder"),
        ("gradient_checkpointing: true\n", "are for SAMs"),
        ("unet: {channels: [8]}\n", "unet.channels"),
        ("unet: {channels: [8, 0]}\n", "unet.channels"),
        ("unet: {channels: [4, 4, 4, 4, 4, 4]}\n", "unet.channels"),
    ],
)
def test_settings_that_a_unet_cannot_have(
    more: str, words: str, call_here: Call, small_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(f"model: unet\n{more}")
    options = ("--recipe", tmp_path / "recipe.yaml")
    done = call_here("train", small_data, "-o", tmp_path / "run", *options)
    assert done.code == 1 and words in done.errors[0], done.err


def test_the_teachers_recipe_is_enough() -> None:
    recipe = read_recipe(Path("unet-teacher"), {})
    assert (recipe.model, recipe.method) == ("unet", "full")
    assert recipe.unet.channels == (24, 48, 96, 192, 384)
    assert read_recipe(None, {"model": "unet"}).method == "full"
