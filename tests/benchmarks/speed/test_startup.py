"""What is measured of whole processes; the times themselves are nobody's promise."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cxrseg.benchmarks.speed.startup import peak_memory, run_once
from cxrseg.runtime.core.errors import CxrsegError
from helpers import phantoms

Bench = Callable[..., Any]


@pytest.fixture
def chest(tmp_path: Path) -> Path:
    Image.fromarray(phantoms.draw(3, 64).image).save(tmp_path / "chest.png")
    return tmp_path / "chest.png"


def test_both_processes_are_measured(bench: Bench, model: Path, chest: Path) -> None:
    output = chest.with_name("startup.json")
    done = bench("startup", chest, "--model", model, "--runs", 3, "-o", output)
    assert done.code == 0, done.err
    record = json.loads(output.read_text())
    bare, cold = record["processes"]
    assert len(bare["wall_ms"]["samples"]) == len(cold["wall_ms"]["samples"]) == 3
    expected = cold["wall_ms"]["median"] / bare["wall_ms"]["median"]
    assert cold["relative"] == pytest.approx(expected, abs=0.001)
    assert bare["relative"] == 1
    if sys.platform != "win32":
        assert cold["peak_memory_bytes"] > bare["peak_memory_bytes"] > 20e6
    assert "cxrseg-run IMAGE" in output.with_suffix(".md").read_text()
    assert sorted(path.name for path in chest.parent.glob("chest*")) == ["chest.png"]


def test_what_fails_is_told(bench: Bench, model: Path, chest: Path) -> None:
    chest.write_bytes(b"no image")
    done = bench("startup", chest, "--model", model, "--runs", 1)
    assert done.code == 1
    assert "is not an image" in done.err
    missing = bench("startup", chest.with_name("none.png"))
    assert missing.code == 1 and "no such file" in missing.err


def test_peaks_are_those_of_the_process() -> None:
    small, large = (
        peak_memory([sys.executable, "-c", f"b'x' * {size}"]) for size in (1, 200_000_000)
    )
    if small is not None and large is not None:
        assert 150e6 < large - small < 250e6
    with pytest.raises(CxrsegError, match="failed"):
        run_once([sys.executable, "-c", "raise SystemExit('no')"])
