from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import phantoms
import pytest

from cxrseg.benchmarks.accuracy import Score, summaries, summarize, worst
from cxrseg.benchmarks.metrics import bootstrap_interval, dice, iou
from cxrseg.runtime.segmenter import Segmenter

Bench = Callable[..., Any]


@pytest.fixture
def record(bench: Bench, model: Path, data: Path, tmp_path: Path) -> dict[str, Any]:
    output = tmp_path / "accuracy.json"
    result = bench(
        "accuracy", model, "--data", data, "-o", output, "--device", "cpu", "--threads", 1
    )
    assert result.code == 0, result.err
    return json.loads(output.read_text())  # type: ignore[no-any-return]


def test_figures_are_those_of_the_masks(record: dict[str, Any], model: Path, data: Path) -> None:
    segmenter = Segmenter(model, "cpu", 1)
    assert [each["image"] for each in record["images"]] == [f"images/{n}.png" for n in range(1, 5)]
    for number, each in enumerate(record["images"], start=1):
        found = segmenter.segment(data.parent / each["image"]).mask != 0
        truth = phantoms.draw(number, (96, 80)).mask != 0
        assert each["dice"] == pytest.approx(dice(found, truth), abs=1e-6)
        assert each["iou"] == pytest.approx(iou(found, truth), abs=1e-6)
        assert each["source"] == ("a" if number % 2 else "b")
        assert each["dice"] > 0.3


def test_summary(record: dict[str, Any]) -> None:
    values = [each["dice"] for each in record["images"]]
    summary = record["summary"]
    assert list(summary) == ["source a", "source b", "all"]
    everything = summary["all"]
    assert (everything["images"], everything["patients"]) == (4, 3)
    assert everything["dice"]["mean"] == pytest.approx(np.mean(values), abs=1e-6)
    assert everything["dice"]["sd"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    assert everything["dice"]["median"] == pytest.approx(np.median(values), abs=1e-6)
    assert everything["dice"]["p5"] == pytest.approx(np.percentile(values, 5), abs=1e-6)
    interval = bootstrap_interval(values, ["p0", "p1", "p1", "p2"], 0)
    assert everything["dice"]["ci95"] == pytest.approx(interval, abs=2e-6)
    assert summary["source a"]["images"] == summary["source b"]["images"] == 2
    assert record["worst"] == [
        each["image"] for each in sorted(record["images"], key=lambda each: each["dice"])
    ]


def test_record_tells_how_it_was_made(
    record: dict[str, Any], model: Path, data: Path, tmp_path: Path
) -> None:
    assert record["model"] == {
        "file": "tiny.onnx",
        "name": "tiny",
        "version": "9.9",
        "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
    }
    assert record["settings"] == {
        "provider": "CPUExecutionProvider",
        "threads": 1,
        "protocol": "fields",
    }
    assert record["data"] == {
        "csv": "pairs.csv",
        "sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
        "split": "test",
        "where": [],
        "limit": None,
        "images": 4,
    }
    assert record["command"].startswith("cxrseg-bench accuracy")
    assert {"date", "versions", "machine", "seed"} <= set(record)
    markdown = (tmp_path / "accuracy.md").read_text()
    for text in (record["command"], record["model"]["sha256"], "| all", "images/1.png"):
        assert text in markdown
    for written in (json.dumps(record), markdown):
        assert str(tmp_path) not in written


def test_runs_repeat(bench: Bench, model: Path, data: Path, tmp_path: Path) -> None:
    records = []
    for name in ("one.json", "two.json"):
        bench("accuracy", model, "--data", data, "-o", tmp_path / name, "--device", "cpu")
        records.append(json.loads((tmp_path / name).read_text()))
        del records[-1]["date"], records[-1]["command"]
    assert records[0] == records[1]


def test_table_is_printed(bench: Bench, model: Path, data: Path) -> None:
    result = bench("accuracy", model, "--data", data, "--where", "source=a", "--by", "patient")
    assert result.code == 0
    assert result.err == ""
    lines = result.out.splitlines()
    assert lines[0] == "tiny.onnx on pairs.csv, split test"
    assert [line.split("|")[1].strip() for line in (lines[2], *lines[4:7])] == [
        "images of",
        "patient p0",
        "patient p1",
        "all",
    ]
    assert len({len(line) for line in lines[2:7]}) == 1, "aligned"
    assert not list(data.parent.glob("*.json"))


def test_external_only_on_request(bench: Bench, model: Path, data: Path) -> None:
    assert "images/5.png" not in bench("accuracy", model, "--data", data).out
    result = bench("accuracy", model, "--data", data, "--split", "external")
    assert "images/5.png" in result.out
    assert "images/4.png" not in result.out


def test_half_of_the_lungs(bench: Bench, model: Path, data: Path, tmp_path: Path) -> None:
    found = Segmenter(model, "cpu").segment(data.parent / "images/5.png").mask
    right, left = np.count_nonzero(found == 1), np.count_nonzero(found == 2)
    cv2.imwrite(str(data.parent / "masks/5.png"), np.where(found == 1, 255, 0).astype(np.uint8))
    output = tmp_path / "half.json"
    bench("accuracy", model, "--data", data, "--split", "external", "-o", output)
    (image,) = json.loads(output.read_text())["images"]
    assert image["dice"] == pytest.approx(2 * right / (2 * right + left), abs=1e-6)
    assert image["iou"] == pytest.approx(right / (right + left), abs=1e-6)


def test_flags_are_recorded(bench: Bench, model: Path, data: Path, tmp_path: Path) -> None:
    blank = np.full((96, 80), 200, np.uint8)
    blank[:8, :8] = 0
    cv2.imwrite(str(data.parent / "images/5.png"), blank)
    alone = data.parent / "alone.csv"
    alone.write_text("image,mask,split\nimages/5.png,masks/5.png,test\n")
    output = tmp_path / "flags.json"
    result = bench("accuracy", model, "--data", alone, "-o", output)
    assert result.code == 0
    record = json.loads(output.read_text())
    flags = Segmenter(model, "cpu").segment(data.parent / "images/5.png").flags
    assert record["images"][0]["flags"] == [flag.code for flag in flags] != []
    assert list(record["summary"]) == ["all"], "no column source, no groups"
    assert record["summary"]["all"]["dice"]["ci95"] is None


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--split", "none"], "no row has"),
        (["--where", "color=gray"], "has no column 'color'"),
        (["--by", "color"], "has no column 'color'"),
        (["--protocol", "whole"], "--protocol whole"),
        (["-o", "none/x.json"], "no such folder"),
    ],
)
def test_errors(bench: Bench, model: Path, data: Path, args: list[str], message: str) -> None:
    result = bench("accuracy", model, "--data", data, *args)
    assert result.code == 1
    assert result.err.startswith("error: ")
    assert message in result.err
    assert len(result.err.splitlines()) == 1


def test_missing_files_are_told_before_the_work(bench: Bench, tmp_path: Path, data: Path) -> None:
    (data.parent / "images/4.png").unlink()
    # The model does not exist either: the data are checked before it is loaded.
    result = bench("accuracy", tmp_path / "none.onnx", "--data", data)
    assert result.code == 1
    assert "4.png: no such image file" in result.err


def test_mask_of_another_size(bench: Bench, model: Path, data: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(data.parent / "masks/2.png"), np.zeros((80, 96), np.uint8))
    result = bench("accuracy", model, "--data", data, "-o", tmp_path / "x.json")
    assert result.code == 1
    assert "2.png: the mask is 96 x 80, its image 80 x 96;" in result.err
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("args", [[], ["--where", "source"], ["--where", "=a"], ["--limit", "0"]])
def test_wrong_usage(bench: Bench, model: Path, data: Path, args: list[str]) -> None:
    data_args = ["--data", data] if args else []
    assert bench("accuracy", model, *data_args, *args).code == 2


@pytest.mark.parametrize("args", [["--help"], ["accuracy", "--help"]])
def test_help_loads_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys\n"
        "from cxrseg.benchmarks.cli import main\n"
        "try:\n"
        f"    main({args!r})\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code\n"
        "heavy = {'torch', 'onnxruntime', 'cv2', 'numpy', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "accuracy" in result.stdout or "MODEL" in result.stdout


def scores(*values: float) -> list[Score]:
    return [Score(f"i{n}", f"p{n}", "g", v, v / 2, ()) for n, v in enumerate(values)]


def test_one_image() -> None:
    summary = summarize(scores(0.8))
    assert summary.dice.mean == summary.dice.median == summary.dice.p5 == 0.8
    assert summary.dice.sd == 0
    assert summary.dice.ci95 is None


def test_worst_come_first() -> None:
    assert [each.dice for each in worst(scores(0.9, 0.1, 0.5), 2)] == [0.1, 0.5]
    assert len(worst(scores(*np.linspace(0, 1, 30)))) == 10


def test_groups_end_with_all() -> None:
    assert list(summaries(scores(0.5, 0.6), "source")) == ["source g", "all"]
    assert list(summaries(scores(0.5, 0.6), None)) == ["all"]
