"""Dice against latency, on phantoms and a model that finds dark places."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cxrseg.benchmarks.speed import latency

Bench = Callable[..., Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "settle", lambda: None)


def test_models_are_scored_and_timed(bench: Bench, model: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "sizes.json"
    args = ["tradeoff", model, model, "--data", data, "--runs", 4]
    done = bench(*args, "-o", output)
    assert done.code == 0, done.err
    record = json.loads(output.read_text())
    first, second = record["models"]
    assert first["dice"] == second["dice"] and 0 < first["dice"]["all"]["mean"] < 1
    assert first["relative_latency"] == 1
    expected = second["latency_ms"] / first["latency_ms"]
    assert second["relative_latency"] == pytest.approx(expected, abs=1e-5)
    accuracy = tmp_path / "accuracy.json"
    assert bench("accuracy", model, "--data", data, "-o", accuracy).code == 0
    assert first["dice"]["all"] == json.loads(accuracy.read_text())["summary"]["all"]["dice"]
    page = output.with_suffix(".md").read_text()
    assert f"{first['dice']['all']['mean']:.4f}" in page and "sizes-latency.svg" in page
    assert all((tmp_path / f"sizes-latency.{kind}").stat().st_size for kind in ("png", "svg"))


def test_what_is_missing_is_told(bench: Bench, model: Path, data: Path, tmp_path: Path) -> None:
    done = bench("tradeoff", model, tmp_path / "none.onnx", "--data", data)
    assert done.code == 1 and "no such model file" in done.err
    foreign = tmp_path / "sizes.md"
    foreign.write_text("mine")
    done = bench("tradeoff", model, "--data", data, "-o", tmp_path / "sizes.json")
    assert done.code == 1 and foreign.read_text() == "mine"
