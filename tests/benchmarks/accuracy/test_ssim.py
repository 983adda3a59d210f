from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image
from skimage.metrics import structural_similarity

from cxrseg.benchmarks.accuracy.picture import MAX_SIDE
from cxrseg.benchmarks.accuracy.ssim import Similarity, chosen, similarity_map
from cxrseg.benchmarks.harness.record import images_file
from cxrseg.benchmarks.harness.samples import Sample
from cxrseg.runtime.segmenter import Segmenter
from helpers.drawing import phantoms

Bench = Callable[..., Any]


def disk(side: int, radius: float, shift: float = 0) -> Any:
    y, x = np.mgrid[:side, :side] - side / 2
    return (x - shift) ** 2 + y**2 < radius**2


def test_equal_masks_are_alike_everywhere() -> None:
    mask = disk(64, 20)
    assert similarity_map(mask, mask).min() == 1
    nothing = np.zeros((64, 48), bool)
    assert similarity_map(nothing, nothing).shape == (64, 48)
    assert similarity_map(nothing, nothing).min() == 1


def test_it_falls_where_masks_differ_and_there_alone() -> None:
    truth = disk(96, 30)
    wrong = truth.copy()
    wrong[40:56, 70:90] ^= True
    found = similarity_map(wrong, truth)
    assert found[48, 80] < 0.3
    assert found[:, :60].min() > 0.999
    assert (
        similarity_map(disk(96, 30, 6), truth).mean()
        < similarity_map(disk(96, 30, 2), truth).mean()
    )


def test_large_masks_are_compared_at_the_papers_size() -> None:
    found = similarity_map(disk(1024, 300), disk(1024, 310))
    assert found.shape == (MAX_SIDE, MAX_SIDE)


def test_picture_shows_both_ends() -> None:
    sample = Sample("x", Path("x"), Path("x"), "x", {})
    found = [Similarity(sample, 0.5 + n / 100, 0.5) for n in (3, 0, 4, 1, 2)]
    assert [round(100 * each.difference) for each in chosen(found, 3)] == [4, 2, 0]
    assert len(chosen(found, 9)) == 5
    assert chosen(found[:1], 4) == found[:1]


@pytest.fixture
def baseline(model: Path, tmp_path: Path) -> Path:
    """Return a model that finds less lung."""
    copy = onnx.load(str(model))
    for weight in copy.graph.initializer:
        if weight.name == "level":
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) - 0.2, "level"))
    onnx.save(copy, str(tmp_path / "baseline.onnx"))
    return tmp_path / "baseline.onnx"


def test_record_and_picture(
    bench: Bench, model: Path, baseline: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "ssim.json"
    args = ("ssim", model, baseline, "--data", data, "--device", "cpu")
    done = bench(*args, "-o", output, "--xrays")
    assert done.code == 0, done.err
    assert "images of patients" in done.out
    record = json.loads(output.read_text())
    images = json.loads(images_file(output).read_text())["images"]
    for number, each in enumerate(images, start=1):
        truth = (phantoms.draw(number, (96, 80)).mask != 0).astype(float)
        for name, path in (("ours", model), ("baseline", baseline)):
            mask = Segmenter(path, "cpu").segment(data.parent / each["image"]).mask != 0
            expected = structural_similarity(  # type: ignore[no-untyped-call]
                mask.astype(float),
                truth,
                data_range=1,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                full=True,
            )[1].mean()
            assert each[name] == pytest.approx(expected, abs=1e-6)
    groups = record["data"]["groups"]
    assert set(groups) == {"source a", "source b", "all"}
    assert groups["all"]["ours"] == pytest.approx(
        np.mean([each["ours"] for each in images]), abs=1e-6
    )
    assert groups["all"]["difference"] == pytest.approx(
        groups["all"]["ours"] - groups["all"]["baseline"], abs=2e-6
    )
    assert groups["all"]["difference"] > 0 and groups["all"]["better"] == 4
    assert record["plots"][0]["shows_patients"] is True
    with Image.open(io.BytesIO((tmp_path / "ssim-maps.png").read_bytes())) as file:
        assert file.size[0] > 1000
    (table,) = record["tables"]
    assert [row[0] for row in table["rows"]] == ["source a", "source b", "all"]


def test_unless_asked_no_image_is_drawn(
    bench: Bench, model: Path, baseline: Path, data: Path, tmp_path: Path
) -> None:
    args = ("ssim", model, baseline, "--data", data, "--device", "cpu")
    done = bench(*args, "-o", tmp_path / "s.json")
    assert done.code == 0, done.err
    assert sorted(p.name for p in tmp_path.glob("s*")) == ["s-images.json", "s.json"]
    assert json.loads((tmp_path / "s.json").read_text())["plots"] == []
    done = bench(*args, "--xrays")
    assert done.code == 2 and "-o" in done.err
