from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cxrseg.runtime import CxrsegError
from cxrseg.runtime.core.labels import labels_of
from cxrseg.runtime.core.orientation import Orientation
from cxrseg.runtime.core.radiograph import Spacing
from cxrseg.runtime.measures.lungs import measure
from cxrseg.runtime.writers.table_files import csv_table
from cxrseg.runtime.writers.tables import COLUMNS, Record

LABELS = labels_of("fields")


def mask() -> np.ndarray:
    """Return 20 x 30: the right lung 10 x 4 = 40 px, the left an L of 8 x 2 and 3 x 8."""
    values = np.zeros((20, 30), np.uint8)
    values[4:14, 3:7] = 1
    values[5:13, 18:20] = 2
    values[10:13, 18:26] = 2
    return values


def test_boxes_width_and_ratio_in_pixels() -> None:
    sizes = measure(mask(), LABELS)
    right, left = sizes.lungs["right_lung"], sizes.lungs["left_lung"]
    assert (right.height_px, right.width_px) == (10, 4)
    assert (left.height_px, left.width_px) == (8, 8)
    # The widest row runs through the foot of the L, from column 3 to 25.
    assert sizes.thoracic_width_px == 23
    assert sizes.area_ratio == 40 / (16 + 24 - 6)
    assert right.height_mm is None and sizes.thoracic_width_mm is None
    assert sizes.spacing_source is None


def test_mm_follow_rows_and_columns() -> None:
    sizes = measure(mask(), LABELS, Spacing(0.5, 0.2, "told"))
    right = sizes.lungs["right_lung"]
    assert (right.height_mm, right.width_mm) == pytest.approx((5.0, 0.8))
    assert sizes.thoracic_width_mm == pytest.approx(4.6)
    assert sizes.spacing_source == "told"


@pytest.mark.parametrize("row", "LRFH")
@pytest.mark.parametrize("column", "LRFH")
def test_measured_upright_however_the_image_lies(row: str, column: str) -> None:
    if (row in "LR") == (column in "LR"):
        return
    lies = Orientation(row, column)  # type: ignore[arg-type]
    upright = measure(mask(), LABELS, Spacing(0.5, 0.2, "told"))
    spacing = Spacing(0.5, 0.2, "told") if row in "LR" else Spacing(0.2, 0.5, "told")
    assert measure(lies.stored(mask()), LABELS, spacing, lies) == upright


def test_lung_that_is_absent() -> None:
    values = mask()
    values[values == 2] = 0
    sizes = measure(values, LABELS, Spacing(1, 1, "told"))
    assert sizes.lungs["left_lung"].height_px == 0 and sizes.lungs["left_lung"].width_mm == 0
    assert sizes.thoracic_width_px is None and sizes.thoracic_width_mm is None
    assert sizes.area_ratio is None
    assert measure(np.zeros_like(values), LABELS).thoracic_width_px is None


def test_width_needs_both_lungs_in_one_row() -> None:
    values = np.zeros((10, 10), np.uint8)
    values[:5, :9] = 1
    values[5:, 8:] = 2
    assert measure(values, LABELS).thoracic_width_px is None
    values[4, 9] = 2
    assert measure(values, LABELS).thoracic_width_px == 10


def test_single_pixels() -> None:
    values = np.zeros((5, 9), np.uint8)
    values[2, 1], values[2, 7] = 1, 2
    sizes = measure(values, LABELS)
    assert sizes.thoracic_width_px == 7 and sizes.area_ratio == 1
    assert sizes.lungs["right_lung"].height_px == sizes.lungs["right_lung"].width_px == 1


def test_a_model_of_one_lung() -> None:
    sizes = measure(mask(), LABELS[:1])
    assert list(sizes.lungs) == ["right_lung"]
    assert sizes.thoracic_width_px is None and sizes.area_ratio is None


# The report and the table.


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_report_holds_the_measurements(run_tiny, save_chest, xrays) -> None:
    assert run_tiny(save_chest(xrays / "x.png")).code == 0
    sizes = json.loads((xrays / "x.json").read_text())["measurements"]
    assert sizes["spacing_source"] is None and sizes["thoracic_width_mm"] is None
    # The phantom's lungs are rectangles from 24 to 96 of 120 rows, 12 to 87 of 100 columns.
    assert sizes["lungs"]["right_lung"]["height_px"] == pytest.approx(72, abs=4)
    assert sizes["thoracic_width_px"] == pytest.approx(75, abs=4)
    assert sizes["area_ratio"] == pytest.approx(1, abs=0.1)


def test_table_has_a_row_per_input(run_tiny, save_chest, xrays, tmp_path) -> None:
    good = [save_chest(xrays / "a.png"), save_chest(xrays / "b.png", left_lung=False)]
    bad = xrays / "bad.png"
    bad.write_bytes(b"no image")
    table = tmp_path / "all.csv"
    inputs = [good[0], bad, tmp_path / "none.png", good[1]]
    assert run_tiny(*inputs, "--csv", table).code == 1
    rows = rows_of(table)
    assert [row["input"] for row in rows] == [str(path) for path in inputs]
    assert [row["status"] for row in rows] == ["ok", "error", "error", "ok"]
    assert "is not an image" in rows[1]["error"] and "no such file" in rows[2]["error"]
    assert rows[1]["right_area_px"] == "" and rows[0]["error"] == ""
    report = json.loads((xrays / "a.json").read_text())
    assert int(rows[0]["right_area_px"]) == report["labels"][0]["area_px"]
    assert int(rows[0]["thoracic_width_px"]) == report["measurements"]["thoracic_width_px"]
    assert rows[0]["right_area_mm2"] == "" and rows[0]["protocol"] == "fields"
    assert rows[3]["flags"] == "lung_missing" and rows[3]["area_ratio_right_left"] == ""
    assert list(rows[0]) == list(COLUMNS)
    # A table of an earlier run is replaced.
    assert run_tiny(good[0], "--csv", table).code == 0
    assert len(rows_of(table)) == 1


def test_status_of_what_strict_withholds(run_tiny, save_chest, xrays, tmp_path) -> None:
    paths = [save_chest(xrays / "a.png", left_lung=False), xrays / "none.png"]
    run_tiny(*paths, "--strict", "--csv", tmp_path / "t.csv")
    assert [row["status"] for row in rows_of(tmp_path / "t.csv")] == ["flagged", "error"]


@pytest.mark.parametrize("kind", ["foreign", "folder", "no folder"])
def test_table_that_cannot_be_is_refused_before_work(
    run_tiny, save_chest, xrays, tmp_path, kind: str
) -> None:
    table = tmp_path / "t.csv"
    if kind == "foreign":
        table.write_text("name;age\n")
    elif kind == "folder":
        table.mkdir()
    else:
        table = tmp_path / "no" / "t.csv"
    result = run_tiny(save_chest(xrays / "x.png"), "--csv", table)
    assert (result.code, result.out, len(result.errors)) == (1, "", 1)
    assert result.err.startswith(f"error: {table}: ") and "--csv" in result.err
    assert [path.name for path in xrays.iterdir()] == ["x.png"]
    assert kind != "foreign" or table.read_text() == "name;age\n"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t="])
def test_formulas_are_defused(tmp_path: Path, start: str) -> None:
    name = f'{start}cmd|"/c calc"!A1,\n.png'
    with csv_table(tmp_path / "t.csv") as add:
        add(Record(name, "error", str(CxrsegError(name, "is bad"))))
    (row,) = rows_of(tmp_path / "t.csv")
    assert row["input"][0] == "'" and row["error"][0] == "'"
    assert "\n" not in row["input"] and "cmd|" in row["input"]


def test_table_keeps_its_rows_on_failure(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), csv_table(tmp_path / "t.csv") as add:
        add(Record("first", "error", "is bad"))
        raise KeyboardInterrupt
    assert [row["input"] for row in rows_of(tmp_path / "t.csv")] == ["first"]
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_keeps_the_complete_rows(model, save_chest, xrays, tmp_path) -> None:
    paths = [save_chest(xrays / f"{i}.png") for i in range(3)]
    table = tmp_path / "t.csv"
    code = (
        "import os, signal\n"
        "from cxrseg.runtime import cli\nfrom cxrseg.runtime.batch import process as batch\n"
        "original = batch.read\n"
        "def read(path):\n"
        "    if path.name == '2.png': os.kill(os.getpid(), signal.SIGINT)\n"
        "    return original(path)\n"
        "batch.read = read\n"
        "cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, paths), "--csv", str(table), *model],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 130, done.stderr
    assert [row["input"] for row in rows_of(table)] == [str(path) for path in paths[:2]]
