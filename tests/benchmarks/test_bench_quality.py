from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import phantoms
import pytest

from cxrseg.benchmarks.quality import Looked, shares, thresholds, transforms
from cxrseg.benchmarks.quality_fit import MARK, balance, fit_normal, framed
from cxrseg.runtime import quality

Bench = Callable[..., Any]


@pytest.fixture
def suspects(tmp_path: Path) -> Path:
    folder = tmp_path / "odd"
    folder.mkdir()
    cv2.imwrite(str(folder / "flat.png"), np.full((120, 100), 90, np.uint8))
    return folder


def test_record_tells_shares_by_group(
    bench: Bench, model: Path, data: Path, suspects: Path, tmp_path: Path
) -> None:
    output = tmp_path / "quality.json"
    options = ("--device", "cpu", "--threads", 1, "--transforms", "--suspect", suspects)
    done = bench("quality", model, "--data", data, *options, "-o", output)
    assert done.code == 0, done.err
    record = json.loads(output.read_text())
    groups = record["groups"]
    assert list(groups)[:2] == ["b", "a"] or list(groups)[:2] == ["a", "b"]
    assert list(groups)[-1] == "suspect odd" and groups["suspect odd"]["flagged"] == 1
    assert {f"a, {name}" for name in transforms()} <= set(groups)
    assert groups["a"]["images"] + groups["b"]["images"] == 4
    assert groups["a, noise"]["flagged"] == 1 and "not_chest" in groups["a, noise"]["codes"]
    assert record["settings"]["thresholds"]["min_lung"] == quality.MIN_LUNG
    page = output.with_suffix(".md").read_text()
    assert "suspect odd" in page and "| a, inverted" in page
    assert str(tmp_path) not in page + output.read_text()


def test_limit_counts_images_of_each_source(bench: Bench, model: Path, data: Path) -> None:
    done = bench("quality", model, "--data", data, "--device", "cpu", "--limit", 1)
    assert done.code == 0, done.err
    rows = [line.split("|")[1:3] for line in done.out.splitlines() if line.startswith("| ")]
    assert sorted((name.strip(), n.strip()) for name, n in rows[2:]) == [("a", "1"), ("b", "1")]


def test_fit_and_measuring_exclude_each_other(bench: Bench, data: Path, tmp_path: Path) -> None:
    assert bench("quality", "--data", data, "--transforms", "--fit", tmp_path / "t.py").code == 2
    foreign = tmp_path / "foreign.py"
    foreign.write_text("x = 1\n")
    done = bench("quality", "--data", data, "--fit", foreign)
    assert done.code == 1 and "is no earlier table" in done.err
    assert foreign.read_text() == "x = 1\n"


def test_fit_needs_images(bench: Bench, data: Path, tmp_path: Path) -> None:
    done = bench("quality", "--data", data, "--device", "cpu", "--fit", tmp_path / "t.py")
    assert done.code == 1 and "too few to fit" in done.err


def test_fit_writes_a_table_that_python_reads(bench: Bench, tmp_path: Path) -> None:
    rows = ["image,mask,split"]
    for number in range(44):
        phantom = phantoms.draw(number, 64)
        cv2.imwrite(str(tmp_path / f"{number}.png"), phantom.image)
        rows.append(f"{number}.png,{number}.png,train")
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    table = tmp_path / "table.py"
    # The shipped model: the tiny one finds the same lungs everywhere.
    done = bench("quality", "--data", tmp_path / "pairs.csv", "--device", "cpu", "--fit", table)
    assert done.code == 0, done.err
    assert table.read_text().startswith(MARK)
    names: dict[str, Any] = {}
    exec(table.read_text(), names)  # our own text
    assert set(names["NORMALS"]) == {"look", "fields", "whole"}
    assert quality.Normal.from_text(names["NORMALS"]["look"]).mean.size == quality.CELLS**2
    assert max(map(len, table.read_text().splitlines())) <= 100


def test_shares() -> None:
    looked = [
        Looked("a, blank", "1", ("no_lung",)),
        Looked("suspect x", "3", ()),
        Looked("a", "1", ()),
        Looked("a", "2", ("cropped", "cropped", "tiny")),
    ]
    found = shares(looked)
    assert list(found) == ["a", "a, blank", "suspect x"]
    assert found["a"] == {"images": 2, "flagged": 0.5, "codes": {"cropped": 0.5, "tiny": 0.5}}


def test_thresholds_are_those_of_the_runtime() -> None:
    found = thresholds()
    assert found["strange"] == quality.STRANGE and "grid" in found
    assert not [name for name in found if name.startswith("_")]


def test_fit_leaves_out_what_lies_far() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 3)) * (1, 2, 3)
    vectors[:5] += 100
    normal = fit_normal(vectors, np.ones(500), kept=0.98)
    assert np.abs(normal.mean).max() < 0.5
    np.testing.assert_allclose(quality.spreads(normal), (1, 2, 3), rtol=0.15)
    assert normal.distance(normal.mean) == pytest.approx(0)


def test_every_group_weighs_the_same() -> None:
    np.testing.assert_allclose(balance(["a", "b", "a"]), [0.5, 1, 0.5])


def test_framing_keeps_most_of_the_image() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.random((100, 80), np.float32)
    for _ in range(20):
        out = framed(pixels, rng)
        assert out.dtype == np.float32 and 80 < out.shape[0] < 125 and 64 < out.shape[1] < 100
