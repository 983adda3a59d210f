"""Masks that follow another protocol than their file says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from cxrseg.benchmarks.accuracy.labels import Fit, counts
from cxrseg.runtime.core.model_card import METADATA_KEY, ModelCard
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.runtime.segmenter import Segmenter

Bench = Callable[..., Any]

LABELS = ("right_lung", "left_lung", "right_lung_whole", "left_lung_whole")


@pytest.fixture
def both(model: Path) -> Path:
    """Return a model that knows both protocols: what it calls fields ends a third earlier."""
    file = onnx.load(model)
    (place,) = (each for each in file.graph.initializer if each.name == "place")
    whole = numpy_helper.to_array(place)
    fields = whole.copy()
    fields[:, :, whole.shape[2] * 3 // 5 :] = -100
    place.CopyFrom(numpy_helper.from_array(np.concatenate([fields, whole], axis=1), "place"))
    file.graph.output[0].type.tensor_type.shape.dim[1].dim_value = len(LABELS)
    onnx.helper.set_model_props(
        file, {METADATA_KEY: ModelCard("both", "1", LABELS, Preprocessing(64)).to_json()}
    )
    path = model.with_name("both.onnx")
    onnx.save(file, path)
    return path


@pytest.fixture
def masked(both: Path, data: Path) -> Path:
    """Give the first test image of `data` the mask of the other protocol, the others their own."""
    for number in range(1, 5):
        segmenter = Segmenter(both, "cpu", 1, "whole" if number == 1 else "fields")
        mask = segmenter.segment(data.parent / f"images/{number}.png").mask
        cv2.imwrite(str(data.parent / f"masks/{number}.png"), mask)
    return data


def test_a_misfiled_mask_is_named(bench: Bench, both: Path, masked: Path, tmp_path: Path) -> None:
    output = tmp_path / "labels.json"
    done = bench("labels", both, "--data", masked, "-o", output, "--device", "cpu", "--threads", 1)
    assert done.code == 0, done.err
    record = json.loads(output.read_text())
    (named,) = record["misfiled"]
    assert named["image"] == "images/1.png"
    assert named["dice_other"] == 1
    assert named["dice"] < 0.95
    by_group = {each["group"]: each for each in record["groups"]}
    assert {name: each["misfiled"] for name, each in by_group.items()} == {"a": 1, "b": 0, "all": 1}
    assert by_group["a"]["mean_dice_others"] == by_group["b"]["mean_dice"] == 1
    assert by_group["b"]["mean_dice_misfiled"] is None
    assert by_group["all"]["mean_dice"] == pytest.approx((named["dice"] + 3) / 4, abs=1e-6)
    assert "images/1.png" in done.out
    assert "images/2.png" not in done.out


def test_filed_under_the_other_protocol_the_others_are_misfiled(
    bench: Bench, both: Path, masked: Path, tmp_path: Path
) -> None:
    output = tmp_path / "labels.json"
    args = ("--protocol", "whole", "--device", "cpu", "--threads", 1, "-o", output)
    assert bench("labels", both, "--data", masked, *args).code == 0
    names = [each["image"] for each in json.loads(output.read_text())["misfiled"]]
    assert names == [f"images/{number}.png" for number in (2, 3, 4)]


def test_a_model_of_one_protocol_cannot_tell(bench: Bench, model: Path, data: Path) -> None:
    done = bench("labels", model, "--data", data, "--device", "cpu")
    assert done.code == 1
    assert "was not trained for this protocol" in done.err


def test_a_draw_is_not_misfiled() -> None:
    (figures,) = counts([Fit("a", "", 0.9, 0.9), Fit("b", "", 0.8, 0.9)])
    assert figures["group"] == "all"
    assert figures["misfiled"] == 1
    assert figures["mean_dice_others"] == 0.9
