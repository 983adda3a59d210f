"""A checkpoint becomes a model with flags of its own."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from cxrseg.export.pipeline import add_reference
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.inference.loading import load_model
from cxrseg.runtime.quality.reference import Reference
from cxrseg.runtime.quality.rules import FITTED
from helpers.drawing import phantoms


@pytest.fixture(scope="module")
def many_phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder with enough phantoms of the nano model's size to fit to."""
    folder = tmp_path_factory.mktemp("many") / "xrays"
    phantoms.write_dataset(folder, {"train": 72, "val": 8}, 96, seed=0)
    return folder


def test_exported_model_judges_and_its_flags_are_its_own(
    call, fine_run: Path, many_phantoms: Path, tmp_path: Path
) -> None:
    model = tmp_path / "ward7.onnx"
    done = call(
        "export", fine_run / "model.ckpt", "-o", model, "--quality-data", many_phantoms,
        "--verify-images", many_phantoms / "val/images",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "fitting the quality reference to 80 images" in done.err
    assert "quality     reference of 80 images, protocols fields" in done.out
    text = load_model(model, "cpu", 1).reference
    assert text is not None
    reference = Reference.from_json(text)
    assert reference.images == 80 and {*reference.limits["fields"]} == {*FITTED}

    good, turned = tmp_path / "good.png", tmp_path / "turned.png"
    phantom = phantoms.draw(500, 96).image
    cv2.imwrite(str(good), phantom)
    cv2.imwrite(str(turned), phantom[::-1])
    assert call("run", "--model", model, good).code == 0
    assert json.loads(good.with_suffix(".json").read_text())["not_assessed"] == []
    ran = call("run", "--strict", "--model", model, turned)
    assert (ran.code, ran.errors) == (3, []) and "not assessed" not in ran.err
    assert "[flag: the image seems to be upside down]" in ran.out


def test_export_without_data_says_what_it_means(
    call, fine_run: Path, phantom_data: Path, tmp_path: Path
) -> None:
    model = tmp_path / "bare.onnx"
    images = phantom_data / "val/images"
    done = call("export", fine_run / "model.ckpt", "-o", model, "--verify-images", images)
    assert done.code == 0, done.err
    (line,) = [x for x in done.out.splitlines() if x.startswith("quality ")]
    assert "no reference" in line and "--quality-data" in line
    assert load_model(model, "cpu", 1).reference is None
    ran = call("run", "--strict", "--model", model, "-o", tmp_path / "out", images)
    assert ran.code == 1 and "has no quality reference" in ran.err


def test_data_that_cannot_be_used_leaves_no_file(
    call, fine_run: Path, phantom_data: Path, small_data: Path, tmp_path: Path
) -> None:
    model = tmp_path / "ward7.onnx"
    options = ("-o", model, "--verify-images", phantom_data / "val/images", "--quality-data")
    done = call("export", fine_run / "model.ckpt", *options, tmp_path / "gone.csv")
    assert done.code == 1 and "gone.csv" in done.err and "tracing" not in done.err
    done = call("export", fine_run / "model.ckpt", *options, small_data)
    assert done.code == 1 and "too few to fit" in done.err and "tracing" not in done.err
    assert not [*tmp_path.iterdir()]


def test_model_of_two_files_has_no_reference(tmp_path: Path) -> None:
    with pytest.raises(CxrsegError, match="too large for one file"):
        add_reference(tmp_path / "a", [], [tmp_path / "a", tmp_path / "b"])
