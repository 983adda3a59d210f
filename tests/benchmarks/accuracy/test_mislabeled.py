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

from cxrseg.benchmarks.accuracy.scoring import Agreement, Score
from cxrseg.benchmarks.accuracy.summary import summarize
from cxrseg.benchmarks.harness.record import images_file
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


def named(output: Path) -> list[str]:
    images = json.loads(images_file(output).read_text())["images"]
    return [each["image"] for each in images if each["dice_other"] > each["dice"]]


def test_a_mislabeled_mask_is_named(bench: Bench, both: Path, masked: Path, tmp_path: Path) -> None:
    output = tmp_path / "labels.json"
    args = ("--mislabeled", "--device", "cpu", "--threads", 1)
    done = bench("accuracy", both, "--data", masked, "-o", output, *args)
    assert done.code == 0, done.err
    record = json.loads(output.read_text())
    single = json.loads(images_file(output).read_text())
    assert named(output) == ["images/1.png"]
    (first,) = (each for each in single["images"] if each["image"] == "images/1.png")
    assert first["dice_other"] == 1
    assert first["dice"] < 0.95
    summary = record["data"]["summary"]
    counts = {name: each["mislabeled"] for name, each in summary.items()}
    assert counts == {"source a": 1, "source b": 0, "all": 1}
    a, b, everything = summary.values()
    assert a["mean_dice_others"] == b["mean_dice_others"] == b["dice"]["mean"] == 1
    assert a["mean_dice_mislabeled"] == everything["mean_dice_mislabeled"] == first["dice"]
    assert b["mean_dice_mislabeled"] is None
    assert everything["dice"]["mean"] == pytest.approx((first["dice"] + 3) / 4, abs=1e-6)
    counted = record["tables"][2]
    (listed,) = (x for x in single["lists"] if x["header"][0] == "mislabeled")
    assert [row[:3] for row in counted["rows"]] == [
        ["source a", "2", "1"],
        ["source b", "2", "0"],
        ["all", "4", "1"],
    ]
    assert [row[0] for row in listed["rows"]] == ["images/1.png"]
    assert "Mislabeled: images whose reference" in record["definitions"]


def test_with_the_other_protocol_the_others_are_mislabeled(
    bench: Bench, both: Path, masked: Path, tmp_path: Path
) -> None:
    output = tmp_path / "labels.json"
    args = ("--mislabeled", "--protocol", "whole", "--device", "cpu", "--threads", 1)
    assert bench("accuracy", both, "--data", masked, "-o", output, *args).code == 0
    assert named(output) == [f"images/{number}.png" for number in (2, 3, 4)]


def test_a_model_of_one_protocol_cannot_tell(bench: Bench, model: Path, data: Path) -> None:
    done = bench("accuracy", model, "--data", data, "--device", "cpu", "--mislabeled")
    assert done.code == 1
    assert "was not trained for this protocol" in done.err


def test_nothing_is_told_unless_asked(
    bench: Bench, both: Path, masked: Path, tmp_path: Path
) -> None:
    output = tmp_path / "plain.json"
    assert bench("accuracy", both, "--data", masked, "-o", output, "--device", "cpu").code == 0
    assert "islabeled" not in output.read_text()
    assert "dice_other" not in images_file(output).read_text()


def test_a_draw_is_not_mislabeled() -> None:
    scores = [
        Score(name, name, "", Agreement(own, own, own, 9, 3), {}, False, (), (), 0.9)
        for name, own in (("a", 0.9), ("b", 0.8))
    ]
    found = summarize(scores).mislabeled
    assert found is not None
    assert found.mislabeled == 1
    assert found.mean_dice_others == 0.9
