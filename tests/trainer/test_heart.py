"""The heart is learned from the images that have a mask of it, and exported with the lungs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cxrseg.trainer.fit.checkpoint import load

Call = Callable[..., Any]

RECIPE = """
model: conv_n
image_size: 64
method: full
labels: [fields, heart]
stage1: {epochs: 1, images_per_epoch: 8, batch_size: 4, clicks: 2}
"""


def test_a_run_learns_the_heart_and_from_clicks(
    call: Call, small_data: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(small_data, tmp_path / "data")
    for split in ("train", "val"):
        first, *_ = sorted((data / split / "masks").iterdir())
        lungs = cv2.imread(str(first), cv2.IMREAD_UNCHANGED)
        heart = np.zeros_like(lungs)
        heart[lungs.shape[0] // 2 : -8, lungs.shape[1] // 3 : -16] = 255
        (data / split / "hearts").mkdir()
        cv2.imwrite(str(data / split / "hearts" / first.name), heart)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    options = ("--recipe", tmp_path / "recipe.yaml", "--stage", "1")
    done = call("train", data, "-o", tmp_path / "run", *options)
    assert done.code == 0, done.err[-2000:]
    description = load(tmp_path / "run/model.ckpt").description
    assert description.labels == ("right_lung", "left_lung", "heart")
    assert 0 <= description.metrics["val_heart"] <= 1
