from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cxrseg.benchmarks.quality.quality import Looked, shares, thresholds, transforms
from cxrseg.benchmarks.quality.reference_fit import (
    CAUGHT,
    FALSE_ALARMS,
    MARGIN,
    MARK,
    balance,
    choose,
    fit_normal,
    framed,
)
from cxrseg.runtime.quality.features import CELLS, Normal
from cxrseg.runtime.quality.rules import RULES, limits
from helpers import phantoms

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
    assert record["settings"]["thresholds"]["tiny"] == RULES["tiny"].limit
    page = output.with_suffix(".md").read_text()
    assert "suspect odd" in page and "| a, inverted" in page
    assert str(tmp_path) not in page + output.read_text()


def test_limit_counts_images_of_each_source(bench: Bench, model: Path, data: Path) -> None:
    done = bench("quality", model, "--data", data, "--device", "cpu", "--limit", 1)
    assert done.code == 0, done.err
    rows = [line.split("|")[1:3] for line in done.out.splitlines() if line.startswith("| ")]
    assert sorted((name.strip(), n.strip()) for name, n in rows[2:]) == [("a", "1"), ("b", "1")]


def test_fit_keeps_other_files(bench: Bench, data: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.py"
    foreign.write_text("x = 1\n")
    done = bench("quality-fit", "--data", data, "--table", foreign)
    assert done.code == 1 and "is no earlier table" in done.err
    assert foreign.read_text() == "x = 1\n"


def test_fit_needs_images(bench: Bench, data: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.py"
    options = ("--data", data, "--device", "cpu", "--table", table)
    done = bench("quality-fit", *options)
    assert done.code == 1 and "too few to fit" in done.err
    done = bench("quality-fit", *options, "--poor", "nowhere")
    assert done.code == 1 and "no image has the source 'nowhere'" in done.err
    assert not table.exists()


def test_fit_writes_a_table_that_python_reads(bench: Bench, suspects: Path, tmp_path: Path) -> None:
    rows = ["image,mask,split,source"]
    for number in range(60):
        phantom = phantoms.draw(number, 64)
        cv2.imwrite(str(tmp_path / f"{number}.png"), phantom.image)
        # Images of the split test must not be read: there are none.
        split = "test" if number >= 56 else "val" if number % 4 == 0 else "train"
        rows.append(f"{number}.png,{number}.png,{split},{'ab'[number % 2]}")
    # Upside down is what the model finds lungs in and what is unusual.
    for number in range(3):
        image = phantoms.draw(number, 64).image[::-1]
        cv2.imwrite(str(suspects / f"{number}.png"), image)
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    table, output = tmp_path / "table.py", tmp_path / "fit.json"
    options = ("--device", "cpu", "--suspect", suspects, "--table", table, "-o", output)
    # The shipped model: the tiny one finds the same lungs everywhere.
    done = bench("quality-fit", "--data", tmp_path / "pairs.csv", *options)
    assert done.code == 0, done.err
    assert table.read_text().startswith(MARK)
    names: dict[str, Any] = {}
    exec(table.read_text(), names)  # our own text
    assert set(names["NORMALS"]) == {"look", "fields", "whole"}
    assert Normal.from_text(names["NORMALS"]["look"]).mean.size == CELLS**2
    assert max(map(len, table.read_text().splitlines())) <= 100
    record = json.loads(output.read_text())
    assert record["data"]["images"] == 56
    least = {name: rule.limit for name, rule in RULES.items() if rule.fitted}
    assert {*names["MIRROR"]} == {"fields", "whole", "fields whole"}
    for protocol, found in names["LIMITS"].items():
        assert {*found} == {*least} and all(found[name] >= least[name] for name in least)
        for name, limit in found.items():
            assert limit == pytest.approx(record["limits"][protocol][name]["value"], rel=1e-3)
        assert record["alarms"][protocol]["a"]["images"] > 20
        assert 0 <= record["mirrored"][protocol]["b"] <= 1
    assert "protocol fields" in output.with_suffix(".md").read_text()
    assert str(tmp_path) not in output.read_text()


def test_limit_leaves_a_margin_above_the_worst_source() -> None:
    rng = np.random.default_rng(0)
    good = {"calm": rng.normal(10, 1, 2000).tolist(), "wild": rng.normal(12, 2, 2000).tolist()}
    limit = choose("shape", good)
    assert limit.value == pytest.approx(MARGIN * limit.good) and limit.suspect is None
    for scores in good.values():
        assert np.mean(np.array(scores) > limit.good) <= FALSE_ALARMS
    assert np.mean(np.array(good["wild"]) > limit.good * 0.99) > 0
    assert choose("shape", {"calm": [1.0] * 9}).value == RULES["shape"].limit
    # Mirror images have the same scores with the other sign: they need no margin.
    assert choose("mirror", {"calm": [0.45] * 9}).value == 0.45


def test_limit_lies_between_good_and_suspect_images() -> None:
    good = {"a": [10.0] * 100 + [16.0] * 2}
    apart = choose("strange", good, [25.0, 30.0, 40.0])
    assert apart.value == pytest.approx(20) and apart.suspect == 25
    # Where they overlap, most of what is suspect is flagged all the same.
    suspect = [12.0, *np.linspace(14, 30, 39)]
    overlapping = choose("strange", {"a": [30.0] * 9}, suspect)
    assert np.mean(np.array(suspect) > overlapping.value) >= CAUGHT


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
    found = thresholds("fields")
    assert found == pytest.approx(limits("fields"), abs=1e-3)


def test_fit_leaves_out_what_lies_far() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 3)) * (1, 2, 3)
    vectors[:5] += 100
    normal = fit_normal(vectors, np.ones(500), kept=0.98)
    assert np.abs(normal.mean).max() < 0.5
    np.testing.assert_allclose(normal.spreads(), (1, 2, 3), rtol=0.15)
    assert normal.distance(normal.mean) == pytest.approx(0)


def test_every_group_weighs_the_same() -> None:
    np.testing.assert_allclose(balance(["a", "b", "a"]), [0.5, 1, 0.5])


def test_framing_keeps_most_of_the_image() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.random((100, 80), np.float32)
    for _ in range(20):
        out = framed(pixels, rng)
        assert out.dtype == np.float32 and 80 < out.shape[0] < 125 and 64 < out.shape[1] < 100
