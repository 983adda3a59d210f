from __future__ import annotations

import json
import os
from itertools import product
from pathlib import Path

import pytest

from cxrseg.runtime.core.model_card import ModelCard
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.runtime.files.atomic import remove_stale
from helpers.runs import contents, save_chests


@pytest.fixture
def finished(run_cxrseg, model, save_chest, xrays, tmp_path):
    """Run once over two images; return what runs again with --skip-existing."""
    save_chest(xrays / "a.png")
    save_chest(xrays / "b.png", left_lung=False)
    out = tmp_path / "out"
    assert run_cxrseg(xrays, "-o", out, *model).code == 0

    def again(*args: str, model: list[str] = model) -> list[str]:
        """Return the names that were done again."""
        result = run_cxrseg(xrays, "-o", out, "--skip-existing", *model, *args)
        assert result.code in (0, 3), result.err
        lines = result.out.splitlines()
        assert len(lines) == 2
        return [Path(x.split(": ")[0]).name for x in lines if "skipped, done before -> " not in x]

    return again


def test_what_is_done_is_left_out(finished, tmp_path) -> None:
    out = tmp_path / "out"
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in out.iterdir()}
    assert finished() == []
    assert {x: (x.stat().st_mtime_ns, x.stat().st_ino) for x in out.iterdir()} == before
    assert finished("--jobs", "2") == []


def test_tables_of_a_resumed_run_are_those_of_a_whole_one(
    run_cxrseg, model, xrays, tmp_path
) -> None:
    save_chests(xrays, 4)
    (xrays / "0001b.png").write_bytes(b"no image")
    tables = {name: tmp_path / name for name in ("1.csv", "1.jsonl", "2.csv", "2.jsonl")}
    base = [xrays, "-o", tmp_path / "out", *model]
    assert run_cxrseg(*base, "--csv", tables["1.csv"], "--jsonl", tables["1.jsonl"]).code == 1
    again = ["--skip-existing", "--csv", tables["2.csv"], "--jsonl", tables["2.jsonl"]]
    result = run_cxrseg(*base, *again)
    assert result.code == 1 and result.out.count("skipped, done before") == 4
    assert tables["1.csv"].read_bytes() == tables["2.csv"].read_bytes()
    assert tables["1.jsonl"].read_bytes() == tables["2.jsonl"].read_bytes()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *product(["a_lungs.png", "a_overlay.png", "a.json"], ["missing", "empty"]),
        *product(["a_lungs.png", "a_overlay.png"], ["another's"]),
    ],
)
def test_outputs_that_are_not_whole_are_made_again(
    finished, tmp_path, name: str, damage: str
) -> None:
    path = tmp_path / "out" / name
    whole = contents(tmp_path / "out")
    if damage == "missing":
        path.unlink()
    elif damage == "empty":  # as a power failure leaves it
        path.write_bytes(b"")
    else:  # as runs at the same time, or a kill, can leave it
        path.write_bytes(path.with_name(name.replace("a", "b", 1)).read_bytes())
        os.utime(path, (1, 1))
    assert finished() == ["a.png"]
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize(
    "change",
    [
        lambda report: report.pop("measurements"),
        lambda report: report["labels"].pop(),
        lambda report: report["labels"][0].update(area_px=None, area_mm2="?"),
        lambda report: report.update(model="?"),
        lambda report: report.update(program=report["program"] + ".1"),
        lambda report: report.update(spacing_mm=float("nan")),
    ],
)
def test_report_that_is_not_as_cxrseg_writes_it_does_not_count(finished, tmp_path, change) -> None:
    path = tmp_path / "out" / "a.json"
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(report))
    assert finished() == ["a.png"]


def test_changed_input_is_done_again(finished, save_chest, xrays) -> None:
    save_chest(xrays / "a.png", left_lung=False)
    assert finished() == ["a.png"]
    assert finished() == []


def test_touched_input_is_done_again(finished, xrays, tmp_path) -> None:
    later = (tmp_path / "out" / "b.json").stat().st_mtime_ns + 10_000_000
    os.utime(xrays / "b.png", ns=(later, later))
    assert finished() == ["b.png"]


def test_another_image_of_the_same_name_is_done_though_it_is_older(
    finished, save_chest, xrays
) -> None:
    save_chest(xrays / "a.png", left_lung=False)
    os.utime(xrays / "a.png", (1, 1))
    assert finished() == ["a.png"]


def test_another_model_does_all_again(finished, model_file) -> None:
    card = ModelCard(
        name="tiny",
        version="9.10",
        labels=("right_lung", "left_lung"),
        preprocessing=Preprocessing(size=64, low=0, high=100),
    )
    other = ["--model", str(model_file("other.onnx", card=card.to_json())), "--device", "cpu"]
    assert finished(model=other) == ["a.png", "b.png"]
    assert finished(model=other) == []
    assert finished() == ["a.png", "b.png"]


def test_another_protocol_does_all_again(run_cxrseg, model_file, save_chest, xrays) -> None:
    labels = ("right_lung", "left_lung", "right_lung_whole", "left_lung_whole")
    run = [save_chest(xrays / "a.png"), "--model", model_file(labels=labels), "--skip-existing"]
    assert "skipped" not in run_cxrseg(*run).out
    assert "skipped" in run_cxrseg(*run).out
    assert "skipped" not in run_cxrseg(*run, "--protocol", "whole").out


def test_formats_must_all_be_there(run_cxrseg, model, save_chest, xrays) -> None:
    run = [save_chest(xrays / "a.png"), *model, "--skip-existing"]
    assert "skipped" not in run_cxrseg(*run, "--format", "json").out
    assert "skipped" not in run_cxrseg(*run).out
    assert "skipped" in run_cxrseg(*run, "--format", "json").out
    # The report is now of this run, which wrote no PNG: those beside it do not count.
    (xrays / "a.json").unlink()
    assert "skipped" not in run_cxrseg(*run, "--format", "json").out
    assert "skipped" not in run_cxrseg(*run).out


def test_strict_does_what_is_flagged_again(finished, xrays, tmp_path) -> None:
    assert finished("--strict") == ["b.png"]


@pytest.mark.parametrize("option", ["--skip-existing", "--watch"])
def test_resuming_needs_the_reports(run_cxrseg, xrays, option: str) -> None:
    result = run_cxrseg(xrays, option, "--format", "png")
    assert result.code == 2 and "add json to --format" in result.err


def test_of_two_images_with_the_same_outputs_the_one_done_first_keeps_them(
    run_cxrseg, model, save_chest, xrays
) -> None:
    save_chest(xrays / "x.png")
    run = [xrays, "--skip-existing", *model]
    assert run_cxrseg(*run).code == 0
    save_chest(xrays / "x.jpg")  # comes first in the folder's order
    for _ in range(2):
        result = run_cxrseg(*run)
        assert result.code == 1 and result.out.startswith(f"{xrays / 'x.png'}: skipped")
        assert result.err.startswith(f"error: {xrays / 'x.jpg'}: its outputs would overwrite those")
    (xrays / "x.png").unlink()
    assert run_cxrseg(*run).code == 0
    assert json.loads((xrays / "x.json").read_text())["input"] == "x.jpg"


def test_what_a_kill_left_is_removed(tmp_path: Path) -> None:
    old, new = tmp_path / ".cxrseg-00.tmp", tmp_path / ".cxrseg-01.tmp"
    other = tmp_path / ".other.tmp"
    for path in (old, new, other):
        path.write_bytes(b"x")
        if path != new:
            os.utime(path, (1, 1))
    remove_stale([tmp_path, tmp_path / "none"])
    assert sorted(tmp_path.iterdir()) == sorted([new, other])
