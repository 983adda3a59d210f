"""The picture of the images of the lowest Dice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from cxrseg.benchmarks.accuracy.picture import MAX_SIDE, PREDICTION, REFERENCE, reduced
from cxrseg.runtime.files.own_files import is_ours

Bench = Callable[..., Any]


def test_picture_shows_both_outlines(bench: Bench, model: Path, data: Path, tmp_path: Path) -> None:
    for _ in range(2):  # An earlier picture is replaced.
        output = tmp_path / "accuracy.json"
        result = bench("accuracy", model, "--data", data, "-o", output, "--xrays")
        assert result.code == 0, result.err
        assert "patients" in result.out.splitlines()[-1]
    assert is_ours(tmp_path / "accuracy-worst.png")
    (told,) = json.loads(output.read_text())["plots"]
    assert told["shows_patients"] is True
    picture = cv2.imread(str(tmp_path / "accuracy-worst.png"))[..., ::-1] / 255
    height, width, _ = picture.shape
    assert width > 2 * height, "four images in one row"
    for color in (PREDICTION, REFERENCE):
        near = np.abs(picture - to_rgb(color)).max(axis=2) < 0.1
        columns = [near[:, i * width // 4 : (i + 1) * width // 4] for i in range(4)]
        assert min(np.count_nonzero(column) for column in columns) > 30


def test_image_without_lungs(bench: Bench, model: Path, data: Path, tmp_path: Path) -> None:
    blank = np.full((96, 80), 200, np.uint8)
    blank[:8, :8] = 0
    for number in range(1, 5):
        cv2.imwrite(str(data.parent / f"images/{number}.png"), blank)
    done = bench("accuracy", model, "--data", data, "-o", tmp_path / "a.json", "--xrays")
    assert done.code == 0, done.err
    assert "0.0000" in done.out, "the model finds no lung"


def test_large_images_are_reduced() -> None:
    small = np.zeros((100, 60), np.float32)
    assert reduced(small) is small
    half = reduced(np.tile(np.float32([[0, 1]]), (2 * MAX_SIDE, MAX_SIDE)))
    assert half.shape == (MAX_SIDE, MAX_SIDE)
    np.testing.assert_allclose(half, 0.5, atol=1e-6)


def test_picture_needs_an_output(bench: Bench, tmp_path: Path, data: Path) -> None:
    # The model does not exist either: the output is checked before it is loaded.
    result = bench("accuracy", tmp_path / "no.onnx", "--data", data, "--xrays")
    assert result.code == 2 and "-o" in result.err


def test_picture_keeps_files_of_others(bench: Bench, data: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a-worst.png"
    picture.write_bytes(b"mine")
    args = ("accuracy", tmp_path / "no.onnx", "--data", data, "-o", tmp_path / "a.json", "--xrays")
    result = bench(*args)
    assert result.code == 1
    assert "is kept" in result.err
    assert picture.read_bytes() == b"mine"


@pytest.mark.parametrize("command", ["accuracy", "ssim"])
def test_help_says_that_the_picture_shows_patients(bench: Bench, command: str) -> None:
    assert "patients" in bench(command, "--help").out.partition("--xrays")[2]
