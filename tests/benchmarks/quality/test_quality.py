from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cxrseg.benchmarks.quality.quality import TRANSFORMS, FlaggedImage, shares, thresholds
from cxrseg.export.reference.attach import attach
from cxrseg.runtime import Segmenter
from cxrseg.runtime.quality.rules import FITTED, RULES
from helpers.models.reference import shipped

Bench = Callable[..., Any]


@pytest.fixture
def suspects(tmp_path: Path) -> Path:
    folder = tmp_path / "odd"
    folder.mkdir()
    cv2.imwrite(str(folder / "flat.png"), np.full((120, 100), 90, np.uint8))
    return folder


@pytest.fixture
def referenced(model: Path) -> Path:
    """Return the tiny model with the reference of the one that ships."""
    attach(shipped(), model, model)
    return model


def test_record_tells_shares_by_group(
    bench: Bench, referenced: Path, data: Path, suspects: Path, tmp_path: Path
) -> None:
    output = tmp_path / "quality.json"
    options = ("--device", "cpu", "--threads", 1, "--transforms", "--suspect", suspects)
    done = bench("quality", referenced, "--data", data, *options, "-o", output)
    assert done.code == 0, done.err
    record = json.loads(output.read_text())
    groups = record["data"]["groups"]
    assert list(groups)[:2] == ["b", "a"] or list(groups)[:2] == ["a", "b"]
    assert list(groups)[-1] == "suspect odd" and groups["suspect odd"]["flagged"] == 1
    assert {f"a, {name}" for name in TRANSFORMS} <= set(groups)
    assert groups["a"]["images"] + groups["b"]["images"] == 4
    assert groups["a, noise"]["flagged"] == 1 and "not_chest" in groups["a, noise"]["codes"]
    assert record["data"]["settings"]["thresholds"]["tiny"] == RULES["tiny"].limit
    assert "suspect odd" in done.out and "| a, inverted" in done.out
    images = (tmp_path / "quality-images.json").read_text()
    flagged = json.loads(images)["images"]
    assert {"group": "suspect odd", "image": "flat.png", "flags": ["not_chest"]} in flagged
    assert all(each["flags"] for each in flagged)
    assert "flat.png" not in output.read_text()
    assert str(tmp_path) not in images + output.read_text()


def test_limit_counts_images_of_each_source(bench: Bench, model: Path, data: Path) -> None:
    done = bench("quality", model, "--data", data, "--device", "cpu", "--limit", 1)
    assert done.code == 0, done.err
    rows = [line.split("|")[1:3] for line in done.out.splitlines() if line.startswith("| ")]
    assert sorted((name.strip(), n.strip()) for name, n in rows[1:]) == [("a", "1"), ("b", "1")]


def test_shares() -> None:
    looked = [
        FlaggedImage("a, blank", "1", ("no_lung",)),
        FlaggedImage("suspect x", "3", ()),
        FlaggedImage("a", "1", ()),
        FlaggedImage("a", "2", ("cropped", "cropped", "tiny")),
    ]
    found = shares(looked)
    assert list(found) == ["a", "a, blank", "suspect x"]
    assert found["a"] == {"images": 2, "flagged": 0.5, "codes": {"cropped": 0.5, "tiny": 0.5}}


def test_thresholds_are_those_of_the_runtime(referenced: Path) -> None:
    segmenter = Segmenter(referenced, "cpu", 1)
    found = thresholds(segmenter)
    assert {*found} == {*RULES}
    fitted = {name: found[name] for name in FITTED}
    assert fitted == pytest.approx(dict(shipped().limits["fields"]), abs=1e-3)
    assert found["tiny"] == RULES["tiny"].limit


def test_thresholds_of_a_model_without_reference(model: Path) -> None:
    found = thresholds(Segmenter(model, "cpu", 1))
    assert {*found} == {name for name, rule in RULES.items() if rule.needs == "nothing"}
