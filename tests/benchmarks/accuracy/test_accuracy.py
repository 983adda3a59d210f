from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cxrseg.benchmarks.accuracy.accuracy import ScoringOptions, score_model
from cxrseg.benchmarks.accuracy.intervals import bootstrap_interval
from cxrseg.benchmarks.accuracy.metrics import dice, iou
from cxrseg.benchmarks.accuracy.scoring import agreement
from cxrseg.benchmarks.harness.record import images_file
from cxrseg.runtime.core.radiograph import Radiograph, Spacing
from cxrseg.runtime.core.segmentation import Segmentation
from cxrseg.runtime.segmenter import Segmenter
from helpers.drawing import phantoms

Bench = Callable[..., Any]


@pytest.fixture
def record(bench: Bench, model: Path, data: Path, tmp_path: Path) -> dict[str, Any]:
    output = tmp_path / "accuracy.json"
    result = bench(
        "accuracy", model, "--data", data, "-o", output, "--device", "cpu", "--threads", 1
    )
    assert result.code == 0, result.err
    return read(output)


def read(output: Path) -> dict[str, Any]:
    """Return the data of a result, with the figures of each image as ``images``."""
    record, images = json.loads(output.read_text()), json.loads(images_file(output).read_text())
    return {**record["data"], "images": images["images"]}


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
        expected = agreement(found, truth)
        for name in ("nsd", "hd95_px", "assd_px"):
            assert each[name] == pytest.approx(getattr(expected, name), abs=1e-6)
        assert each["hd95_mm"] is each["assd_mm"] is None, "PNG tells no spacing"


def test_programs_get_the_same_scores(record: dict[str, Any], model: Path, data: Path) -> None:
    found = score_model(model, ScoringOptions(data=data, device="cpu", threads=1))
    plain = {name: summary.to_dict() for name, summary in found.summary.items()}
    assert json.loads(json.dumps(plain)) == record["summary"]
    assert found.by == "source"
    assert [score.image for score in found.scores] == [each["image"] for each in record["images"]]


def test_each_lung(record: dict[str, Any], model: Path, data: Path) -> None:
    """Label maps and binary masks of two parts tell the same sides."""
    segmenter = Segmenter(model, "cpu", 1)
    for number, each in enumerate(record["images"], start=1):
        found = segmenter.segment(data.parent / each["image"]).mask
        truth = phantoms.draw(number, (96, 80)).mask
        for value, side in ((1, "right"), (2, "left")):
            expected = dice(found == value, truth == value)
            assert each["lungs"][side]["dice"] == pytest.approx(expected, abs=1e-6)
        assert each["swapped"] is False
        assert each["missing"] == []
    summary = record["summary"]["all"]
    assert (summary["sided"], summary["swapped"], summary["missing"]) == (4, 0, 0)
    assert summary["lungs"]["left"]["hd95_px"]["images"] == 4
    assert record["swapped"] == record["missing"] == []


def test_swapped_and_missing_lungs_are_named(
    bench: Bench, model: Path, data: Path, tmp_path: Path
) -> None:
    masks = data.parent / "masks"
    found = {
        n: Segmenter(model, "cpu").segment(data.parent / f"images/{n}.png").mask for n in (1, 3)
    }
    cv2.imwrite(str(masks / "1.png"), (3 - found[1]) * (found[1] > 0))
    moved = found[3].copy()
    moved[moved == 2] = 0
    moved[:4, -4:] = 2
    cv2.imwrite(str(masks / "3.png"), moved)
    output = tmp_path / "sides.json"
    result = bench("accuracy", model, "--data", data, "-o", output)
    record = read(output)
    assert record["swapped"] == ["images/1.png"]
    assert record["missing"] == [{"image": "images/3.png", "lungs": ["left"]}]
    assert record["summary"]["source a"]["swapped"] == 1
    assert record["summary"]["source b"]["missing"] == 0
    for text in ("right and left swapped", "left lung not found"):
        assert text in result.out
        assert text in (tmp_path / "sides-images.json").read_text()


def test_masks_without_sides(bench: Bench, model: Path, data: Path, tmp_path: Path) -> None:
    one = np.zeros((96, 80), np.uint8)
    one[20:70, 10:70] = 255
    for number in range(1, 5):
        cv2.imwrite(str(data.parent / f"masks/{number}.png"), one)
    output = tmp_path / "union.json"
    result = bench("accuracy", model, "--data", data, "-o", output)
    record = read(output)
    assert {each["lungs"] for each in record["images"]} == {None}
    assert {each["swapped"] for each in record["images"]} == {None}
    assert record["summary"]["all"]["lungs"] is None
    assert "No reference tells right from left" in result.out
    assert "lung of" not in result.out


def test_distances_in_millimeters(
    bench: Bench, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spacing = Spacing(0.5, 0.5, "test")
    plain = Segmenter.segment

    def spaced(self: Segmenter, image: Radiograph, name: str) -> Segmentation:
        result = plain(self, image, name)
        return replace(result, spacing=spacing if Path(name).stem in ("1", "3") else None)

    monkeypatch.setattr(Segmenter, "segment", spaced)
    output = tmp_path / "mm.json"
    result = bench("accuracy", model, "--data", data, "-o", output)
    record = read(output)
    first, second = record["images"][:2]
    assert first["hd95_mm"] == pytest.approx(first["hd95_px"] / 2, abs=1e-6)
    assert second["hd95_mm"] is None
    assert record["summary"]["all"]["assd_mm"]["images"] == 2
    assert record["summary"]["source b"]["assd_mm"] is None
    assert "HD95 mm" in result.out


def test_summary(record: dict[str, Any]) -> None:
    values = [each["dice"] for each in record["images"]]
    summary = record["summary"]
    assert list(summary) == ["source a", "source b", "all"]
    everything = summary["all"]
    assert (everything["images"], everything["patients"]) == (4, 3)
    assert everything["dice"]["mean"] == pytest.approx(np.mean(values), abs=1e-6)
    assert everything["dice"]["sd"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    assert everything["dice"]["median"] == pytest.approx(np.median(values), abs=1e-6)
    assert everything["dice"]["images"] == 4
    distances = [each["hd95_px"] for each in record["images"]]
    assert everything["hd95_px"]["p95"] == pytest.approx(np.percentile(distances, 95), abs=1e-6)
    assert everything["dice"]["p5"] == pytest.approx(np.percentile(values, 5), abs=1e-6)
    interval = bootstrap_interval(values, ["p0", "p1", "p1", "p2"], 0)
    assert everything["dice"]["ci95"] == pytest.approx(interval, abs=2e-6)
    assert summary["source a"]["images"] == summary["source b"]["images"] == 2


def test_worst_come_first(record: dict[str, Any], tmp_path: Path) -> None:
    summary = (tmp_path / "accuracy.json").read_text()
    worst = json.loads((tmp_path / "accuracy-images.json").read_text())["lists"][-1]
    assert worst["header"][0] == "lowest Dice"
    assert [row[0] for row in worst["rows"]] == [
        each["image"] for each in sorted(record["images"], key=lambda each: each["dice"])
    ]
    assert not [row for row in worst["rows"] if row[0] in summary], "a summary names no image"


def test_record_tells_how_it_was_made(
    record: dict[str, Any], model: Path, data: Path, tmp_path: Path
) -> None:
    whole = json.loads((tmp_path / "accuracy.json").read_text())
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
    assert record["dataset"] == {
        "csv": "pairs.csv",
        "sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
        "split": "test",
        "where": [],
        "limit": None,
        "images": 4,
    }
    assert whole["command"] == (
        "cxrseg-bench accuracy tiny.onnx --data pairs.csv --threads 1 --device cpu"
    )
    assert {"date", "versions", "machine", "seed"} <= set(whole)
    tables = json.dumps(whole["tables"])
    for text in ("all, left", "lack a lung", "NSD"):
        assert text in tables
    assert str(tmp_path) not in json.dumps([whole, record])


def test_runs_repeat(bench: Bench, model: Path, data: Path, tmp_path: Path) -> None:
    records = []
    for name in ("one.json", "two.json"):
        bench("accuracy", model, "--data", data, "-o", tmp_path / name, "--device", "cpu")
        records.append(read(tmp_path / name))
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
    (image,) = read(output)["images"]
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
    record = read(output)
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
    assert (
        "2.png: the mask is 96 x 80, its image 80 x 96 (one of the two may be turned" in result.err
    )
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("args", [[], ["--where", "source"], ["--where", "=a"], ["--limit", "0"]])
def test_wrong_usage(bench: Bench, model: Path, data: Path, args: list[str]) -> None:
    data_args = ["--data", data] if args else []
    assert bench("accuracy", model, *data_args, *args).code == 2


@pytest.mark.parametrize(
    ("args", "unwanted"),
    [
        (["--help"], {"torch", "onnxruntime", "cv2", "numpy", "scipy", "matplotlib"}),
        (["accuracy", "--help"], {"torch", "onnxruntime", "scipy", "matplotlib"}),
    ],
)
def test_help_loads_nothing_slow(args: list[str], unwanted: set[str]) -> None:
    code = (
        "import sys\n"
        "from cxrseg.benchmarks.cli import main\n"
        "try:\n"
        f"    main({args!r})\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code\n"
        f"loaded = {unwanted!r} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "accuracy" in result.stdout or "MODEL" in result.stdout
