"""Sizes, times and memory of models, by their record. No time is asserted."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxrseg.benchmarks.speed import latency, timing
from cxrseg.benchmarks.speed.latency import IMAGE, figures_table, sample_image
from cxrseg.benchmarks.speed.timing import Schedule
from helpers.models.foreign import with_card, write_model

Bench = Callable[..., Any]

RUNS = 6


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take no rests, which matter to times alone, and load less often."""
    monkeypatch.setattr(timing, "settle", lambda: None)
    monkeypatch.setattr(latency, "LOADS", 2)
    monkeypatch.setattr(latency, "WARMUP", 1)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    return write_model(tmp_path / "foreign.onnx")


def measured(bench: Bench, output: Path, *args: str | Path | int) -> dict[str, Any]:
    result = bench("latency", *args, "--device", "cpu", "--threads", 1, "-o", output)
    assert result.code == 0, result.err
    assert result.err == "", "no bar without a terminal"
    return json.loads(output.read_text())  # type: ignore[no-any-return]


@pytest.fixture
def record(bench: Bench, model: Path, foreign: Path, tmp_path: Path) -> dict[str, Any]:
    return measured(bench, tmp_path / "latency.json", model, foreign, "--runs", RUNS)


def test_record_describes_the_models(record: dict[str, Any], model: Path, foreign: Path) -> None:
    models = record["data"]["models"]
    for each, path in zip(models, (model, foreign), strict=True):
        assert each["title"] == each["file"] == path.name
        assert each["size_bytes"] == path.stat().st_size
        assert each["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    ours, other = models
    assert ours["card"] == {"name": "tiny", "version": "9.9", "protocol": "fields"}
    assert ours["input"] == [1, 1, 64, 64]
    assert other["card"] is other["image_ms"] is other["peak_memory_bytes"] is None
    assert other["input"] == [1, 3, 32, 32]
    if sys.platform != "win32":
        assert 20e6 < ours["peak_memory_bytes"] < 2e9


def test_figures_follow_from_each_other(record: dict[str, Any]) -> None:
    models = record["data"]["models"]
    first = models[0]
    for each in models:
        times = each["latency_ms"]
        assert 0 < times["p5"] <= times["median"] <= times["p95"]
        assert each["throughput"] == pytest.approx(1000 / times["median"])
        assert each["load_ms"]["median"] > 0
        size = each["size_bytes"] / first["size_bytes"]
        ratio = times["median"] / first["latency_ms"]["median"]
        assert each["relative"]["size"] == pytest.approx(size, abs=1e-6)
        assert each["relative"]["latency"] == pytest.approx(ratio, abs=1e-6)
    assert first["relative"] == {"size": 1.0, "latency": 1.0}
    assert first["image_ms"]["median"] > 0


def test_figures_are_those_of_the_times(
    bench: Bench, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of known length: loads, then inferences, then whole images, each with its warm-up."""
    rounds = []

    def timed(runs: Any, schedule: Schedule) -> list[list[float]]:
        rounds.append((len(runs), schedule.rounds, schedule.warmup))
        for run in runs * (schedule.warmup + schedule.rounds):
            run()
        return [[10.0 * len(rounds) + n for n in range(schedule.rounds)] for _ in runs]

    monkeypatch.setattr(latency, "interleaved", timed)
    data = measured(bench, tmp_path / "r.json", model, "--runs", 20)["data"]
    assert rounds == [(1, 2, 1), (1, 20, 1), (1, 10, 1)]
    assert data["settings"]["image_runs"] == 10
    (each,) = data["models"]
    assert each["load_ms"]["median"] == 10.5
    assert each["latency_ms"] == {"median": 29.5, "p5": 20.95, "p95": 38.05}
    assert each["image_ms"]["median"] == 34.5


def test_record_tells_how_it_was_made(record: dict[str, Any], tmp_path: Path) -> None:
    assert record["benchmark"] == "latency"
    assert record["command"] == (
        "cxrseg-bench latency tiny.onnx foreign.onnx --threads 1 --device cpu --runs 6"
    )
    assert record["data"]["settings"] == {
        "provider": "CPUExecutionProvider",
        "threads": 1,
        "runs": RUNS,
        "warmup": 1,
        "loads": 2,
        "image_runs": RUNS,
        "image": [2000, 2000],
    }
    assert record["seed"] == 0
    assert {"date", "versions", "machine"} <= set(record)
    assert str(tmp_path) not in json.dumps(record)


def test_sample_image_repeats() -> None:
    image = sample_image(0)
    assert (image.shape, image.dtype) == (IMAGE, np.uint8)
    assert np.array_equal(image, sample_image(0))
    assert image.min() < 100 < 160 < image.max(), "lungs are darker than the middle"


def test_foreign_models_alone(bench: Bench, foreign: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "batch.onnx", ("N", 1, 48, 32), inputs=["x"])
    record = measured(bench, tmp_path / "r.json", foreign, other, "--runs", 2)
    models = record["data"]["models"]
    assert [each["input"] for each in models] == [[1, 3, 32, 32], [1, 1, 48, 32]]
    assert [each["card"] for each in models] == [None, None]


def test_equal_names_are_told_apart(bench: Bench, foreign: Path, tmp_path: Path) -> None:
    models = measured(bench, tmp_path / "r.json", foreign, foreign, "--runs", 2)["data"]["models"]
    assert [each["title"] for each in models] == ["foreign.onnx", "foreign.onnx (2)"]
    assert [each["relative"]["size"] for each in models] == [1, 1]


def test_model_of_the_other_protocol(bench: Bench, model: Path, tmp_path: Path) -> None:
    labels = ["right_lung_whole", "left_lung_whole"]
    whole = with_card(model, tmp_path / "whole.onnx", lambda card: card.update(labels=labels))
    (each,) = measured(bench, tmp_path / "r.json", whole, "--runs", 1)["data"]["models"]
    assert each["card"]["protocol"] == "whole"
    assert each["image_ms"]["median"] > 0


def test_table_is_printed(bench: Bench, model: Path, foreign: Path) -> None:
    result = bench("latency", model, foreign, "--runs", 2, "--device", "cpu", "--threads", 1)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == "CPUExecutionProvider, threads 1, runs 2"
    assert [line.split("|")[1].strip() for line in (lines[2], *lines[4:])] == [
        "model",
        "tiny.onnx",
        "foreign.onnx",
    ]
    assert len({len(line) for line in lines[2:]}) == 1, "aligned"
    assert [cell.strip() for cell in lines[2].split("|")[-3:-1]] == ["rel. size", "rel. latency"]
    assert lines[5].split("|")[8].strip() == lines[5].split("|")[9].strip() == "-"
    assert not list(model.parent.glob("*.json"))


def test_table_of_one_model_has_no_ratios(record: dict[str, Any]) -> None:
    assert "rel." not in figures_table(record["data"]["models"][:1]).to_text()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_model_that_goes_before_its_memory_is_measured(
    bench: Bench, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = latency.sample_image

    def drawn(seed: int) -> Any:
        model.unlink()
        return draw(seed)

    monkeypatch.setattr(latency, "sample_image", drawn)
    result = bench("latency", model, "--runs", 1, "--device", "cpu")
    assert result.code == 1
    assert "tiny.onnx: failed in a process of its own" in result.err
    assert "no such model file" in result.err


def test_default_model(
    bench: Bench, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "default_model", lambda: model)
    record = measured(bench, tmp_path / "r.json", "--runs", 1)
    assert [each["file"] for each in record["data"]["models"]] == ["tiny.onnx"]


def test_bad_output_is_told_before_the_work(bench: Bench, tmp_path: Path) -> None:
    result = bench("latency", tmp_path / "none.onnx", "--runs", 1, "-o", tmp_path / "r.txt")
    assert result.code == 1
    assert "does not end in .json" in result.err


@pytest.mark.parametrize("args", [["--runs", 0], ["--threads", 0], ["--device", "abacus"]])
def test_wrong_usage(bench: Bench, model: Path, args: list[str | int]) -> None:
    assert bench("latency", model, *args).code == 2


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from cxrseg.benchmarks.cli import main\n"
        "try:\n"
        "    main(['latency', '--help'])\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "MODEL" in result.stdout
