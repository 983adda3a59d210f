from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cxrseg.runtime.inference.loading import load_model
from cxrseg.runtime.models import default_model
from cxrseg.runtime.quality.reference import Reference
from cxrseg.runtime.quality.rules import FITTED, RULES
from helpers.drawing import phantoms

Bench = Callable[..., Any]


def test_fit_needs_images(bench: Bench, data: Path, tmp_path: Path) -> None:
    written = tmp_path / "new.onnx"
    options = ("--data", data, "--device", "cpu", "--write-model", written)
    done = bench("quality-fit", *options)
    assert done.code == 1 and "too few to fit" in done.err
    done = bench("quality-fit", *options, "--poor", "nowhere")
    assert done.code == 1 and "no image has the source 'nowhere'" in done.err
    assert not written.exists()


def test_a_file_that_is_no_model_is_kept(
    bench: Bench, data: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.onnx").write_text("mine")
    for name, words in (
        ("new.png", "does not end in .onnx"),
        ("none/new.onnx", "its folder cannot be written to"),
        ("mine.onnx", "so it is kept"),
        (model.name, "too few to fit"),  # A model may be replaced.
    ):
        written = tmp_path / name
        done = bench("quality-fit", "--data", data, "--device", "cpu", "--write-model", written)
        assert done.code == 1 and words in done.err, done.err
    assert (tmp_path / "mine.onnx").read_text() == "mine"


def test_fit_writes_a_model_that_carries_its_reference(bench: Bench, tmp_path: Path) -> None:
    rows = ["image,mask,split,source"]
    for number in range(60):
        cv2.imwrite(str(tmp_path / f"{number}.png"), phantoms.draw(number, 64).image)
        # Images of the split test must not be read: there are none.
        split = "test" if number >= 56 else "val" if number % 4 == 0 else "train"
        rows.append(f"{number}.png,,{split},{'ab'[number % 2]}")
    suspects = tmp_path / "odd"
    suspects.mkdir()
    cv2.imwrite(str(suspects / "flat.png"), np.full((120, 100), 90, np.uint8))
    # Upside down is what the model finds lungs in and what is unusual.
    for number in range(3):
        image = phantoms.draw(number, 64).image[::-1]
        cv2.imwrite(str(suspects / f"{number}.png"), image)
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    written, output = tmp_path / "new.onnx", tmp_path / "fit.json"
    options = ("--device", "cpu", "--suspect", suspects, "--write-model", written, "-o", output)
    # The shipped model: the tiny one finds the same lungs everywhere.
    done = bench("quality-fit", "--data", tmp_path / "pairs.csv", *options)
    assert done.code == 0, done.err
    text = load_model(written, "cpu", 1).reference
    assert text is not None and text != load_model(default_model(), "cpu", 1).reference
    reference = Reference.from_json(text)
    assert reference.images == 56 and reference.protocols == ("fields", "whole")
    data = json.loads(output.read_text())["data"]
    assert data["dataset"]["images"] == 56
    for protocol in reference.protocols:
        found = reference.limits[protocol]
        assert {*found} == {*FITTED}
        assert all(found[name] >= RULES[name].limit for name in FITTED)
        for name, limit in found.items():
            assert limit == pytest.approx(data["limits"][protocol][name]["value"], rel=1e-3)
        assert data["alarms"][protocol]["a"]["images"] > 20
        assert 0 <= data["mirrored"][protocol]["b"] <= 1
    assert "protocol fields" in done.out
    assert str(tmp_path) not in output.read_text()
