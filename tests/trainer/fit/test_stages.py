"""Stages: devices, patience, and where the weights start from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from cxrseg.trainer.fit.checkpoint import load
from cxrseg.trainer.fit.start import float_state
from helpers.outcomes import Call


def test_two_devices(
    call: Call, small_data: Path, base_run: Path, recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    """Two processes on the CPU train both stages and allocate ranks alike."""
    settings = recipe(
        "accelerator: cpu\ndevices: 2\n"
        "stage1: {epochs: 3, images_per_epoch: 32, batch_size: 2}\n"
        "stage2: {epochs: 1, images_per_epoch: 16, batch_size: 2}\n"
    )
    options = ("--recipe", settings, "--checkpoint", base_run / "model.ckpt")
    done = call("train", small_data, "-o", tmp_path / "run", "--method", "adalora", *options)
    assert done.code == 0, done.err[-2000:]
    assert done.out.count("wrote ") == 1
    description = load(tmp_path / "run/model.ckpt").description
    assert description.stage == 2
    assert sum(description.ranks.values()) == 8 * 12
    assert (
        int(torch.load(tmp_path / "run/stage1/last.ckpt", weights_only=True)["global_step"]) == 24
    )


def test_patience_waits_for_the_final_ranks(
    call_here: Call, small_data: Path, base_run: Path, tmp_path: Path
) -> None:
    recipe = {
        "model": "vit_n",
        "image_size": 64,
        "stage1": {"epochs": 10, "images_per_epoch": 8, "batch_size": 4, "patience": 2},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    options = ("--checkpoint", base_run / "model.ckpt", "--stage", "1")
    run = tmp_path / "run"
    done = call_here("train", small_data, "-o", run, "--recipe", tmp_path / "recipe.yaml", *options)
    assert done.code == 0
    assert sum(load(run / "model.ckpt").description.ranks.values()) == 8 * 12


def test_training_starts_from_the_average(
    call: Call, small_data: Path, base_run: Path, tmp_path: Path
) -> None:
    base = base_run / "model.ckpt"
    checkpoint = torch.load(base, weights_only=True)
    for value in checkpoint["state_dict"].values():
        value *= 3
    torch.save(checkpoint, tmp_path / "other.ckpt")
    (tmp_path / "recipe.yaml").write_text(
        "model: vit_n\nimage_size: 96\nmethod: full\n"
        "stage1: {epochs: 1, batch_size: 4, lr: 1.0e-12, decoder_lr: 1.0e-12}\n"
    )
    options = ("--recipe", tmp_path / "recipe.yaml", "--stage", "1", "--checkpoint", base)
    average = ("--soup", tmp_path / "other.ckpt")
    done = call("train", small_data, "-o", tmp_path / "run", *options, *average)
    assert done.code == 0, done.err[-2000:]
    before = load(base).model.state_dict()
    for name, value in load(tmp_path / "run" / "model.ckpt").model.state_dict().items():
        torch.testing.assert_close(value, 2 * before[name], atol=1e-5, rtol=1e-4, msg=name)
    settings = json.loads((tmp_path / "run" / "run.json").read_text())
    assert len(settings["soup_sha256"]) == 1


def test_quantization_starts_from_the_average(
    call: Call, small_data: Path, base_run: Path, fine_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "sensitivity_images: 1\ncalibration_images: 2\n"
        "stage2: {epochs: 1, images_per_epoch: 8, batch_size: 4, lr: 1.0e-12,\n"
        "  decoder_lr: 1.0e-12}\n"
    )
    files = (base_run / "model.ckpt", fine_run / "stage1.ckpt")
    options = ("--recipe", tmp_path / "recipe.yaml", "--stage", "2", "--checkpoint", files[0])
    done = call("train", small_data, "-o", tmp_path / "run", *options, "--soup", files[1])
    assert done.code == 0, done.err[-2000:]
    first, second = (float_state(load(path).model) for path in files)
    for name, value in float_state(load(tmp_path / "run" / "model.ckpt").model).items():
        wanted = (first[name] + second[name]) / 2
        torch.testing.assert_close(value, wanted, atol=1e-5, rtol=1e-4, msg=name)
