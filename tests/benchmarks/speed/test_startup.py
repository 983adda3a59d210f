"""What is measured of whole processes; the times themselves are nobody's promise."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.drawing import phantoms

Bench = Callable[..., Any]


@pytest.fixture
def chest(tmp_path: Path) -> Path:
    Image.fromarray(phantoms.draw(3, 64).image).save(tmp_path / "chest.png")
    return tmp_path / "chest.png"


def test_both_processes_are_measured(bench: Bench, model: Path, chest: Path) -> None:
    output = chest.with_name("startup.json")
    done = bench("startup", chest, "--model", model, "--runs", 3, "-o", output)
    assert done.code == 0, done.err
    assert "| cxrseg-run IMAGE " in done.out
    record = json.loads(output.read_text())
    data = record["data"]
    assert data["image"] == {"height": 64, "width": 64}
    assert data["model"]["file"] == "tiny.onnx" and record["seed"] == 0
    bare, cold = data["processes"]
    expected = cold["wall_ms"]["median"] / bare["wall_ms"]["median"]
    assert cold["relative"] == pytest.approx(expected, abs=0.001)
    assert bare["relative"] == 1
    for process in (bare, cold):
        wall = process["wall_ms"]
        assert 0 < wall["p5"] <= wall["median"] <= wall["p95"]
    if sys.platform != "win32":
        assert cold["peak_memory_bytes"] > bare["peak_memory_bytes"] > 20e6
    assert sorted(path.name for path in chest.parent.glob("chest*")) == ["chest.png"]


def test_failures_are_told(bench: Bench, model: Path, chest: Path) -> None:
    done = bench("startup", chest, "--model", chest.with_name("none.onnx"), "--runs", 1)
    assert done.code == 1
    assert "cxrseg-run IMAGE: failed" in done.err and "no such model file" in done.err
    missing = bench("startup", chest.with_name("none.png"))
    assert missing.code == 1 and "no such file" in missing.err
    chest.write_bytes(b"no image")
    done = bench("startup", chest, "--model", model, "--runs", 1)
    assert done.code == 1
    assert "is not an image" in done.err
