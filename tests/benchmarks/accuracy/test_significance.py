from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from cxrseg.benchmarks.accuracy.paired import compare
from cxrseg.benchmarks.harness.record import images_file
from cxrseg.runtime.files.own_files import is_ours

Bench = Callable[..., Any]


Models = tuple[Path, Path]


@pytest.fixture
def models(model: Path, tmp_path: Path) -> Models:
    """Return the tiny model, and another that takes less for dark."""
    copy = onnx.load(str(model))
    for weight in copy.graph.initializer:
        if weight.name == "level":
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) - 0.1, "level"))
    path = tmp_path / "other.onnx"
    onnx.save(copy, str(path))
    return model, path


@pytest.fixture
def results(bench: Bench, models: Models, data: Path, tmp_path: Path) -> list[Path]:
    """Return results of accuracy of both models."""
    paths = []
    for each in models:
        paths.append(tmp_path / f"accuracy-{each.stem}.json")
        done = bench("accuracy", each, "--data", data, "-o", paths[-1], "--device", "cpu")
        assert done.code == 0, done.err
    return paths


def test_record_is_that_of_the_scores(
    bench: Bench, models: Models, data: Path, results: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "significance.json"
    args = ("significance", *models, "--data", data, "--device", "cpu")
    done = bench(*args, "-o", output, "--margin", 0.01)
    assert done.code == 0, done.err
    record = json.loads(output.read_text())
    told = record["data"]
    scores = [
        [e["dice"] for e in json.loads(images_file(p).read_text())["images"]] for p in results
    ]
    patients = ["p0", "p1", "p1", "p2"]
    expected = compare(scores[0], scores[1], patients, 0.01)
    found = told["groups"]["all"]
    assert found["difference"] == pytest.approx(expected.difference) != 0
    assert found["patients"] == 3
    assert found["tost_p"] == pytest.approx(expected.tost_p)
    assert found["holm_p"] is None
    assert found["verdict"] == expected.verdict
    assert set(told["groups"]) == {"source a", "source b", "all"}
    holms = [told["groups"][f"source {name}"]["holm_p"] for name in "ab"]
    assert all(p is not None for p in holms)
    assert told["settings"]["margin"] == 0.01
    assert [each["file"] for each in told["models"]] == ["tiny.onnx", "other.onnx"]
    assert (tmp_path / "significance-differences.png").stat().st_size > 1000
    assert is_ours(tmp_path / "significance-differences.png")
    (table,) = record["tables"]
    assert [row[0] for row in table["rows"]] == ["source a", "source b", "all"]
    assert [row[-1] for row in table["rows"]][-1] == expected.verdict

    again = bench(*args, "-o", output, "--margin", 0.01)
    assert again.code == 0, "an earlier result is replaced"


def test_two_results_say_the_same_as_two_models(
    bench: Bench, models: Models, data: Path, results: list[Path], tmp_path: Path
) -> None:
    def data_of(*args: object) -> Any:
        output = tmp_path / "significance.json"
        done = bench("significance", *args, "--data", data, "-o", output)
        assert done.code == 0, done.err
        return json.loads(output.read_text())["data"]

    fresh, read = data_of(*models, "--device", "cpu"), data_of(*results)
    # Results hold six digits.
    assert read["groups"] == fresh["groups"]
    assert read["models"] == [
        {"result": path.name, **facts} for path, facts in zip(results, fresh["models"], strict=True)
    ]
    same = data_of(results[0], results[0])["groups"]["all"]
    assert same["difference"] == 0
    assert same["verdict"] == "equivalent"


def changed(result: Path, change: Callable[[Any, Any], object]) -> None:
    """Change what a result and the figures of its images hold."""
    files = (result, images_file(result))
    record, images = (json.loads(file.read_text()) for file in files)
    change(record, images["images"])
    for file, content in zip(files, (record, images), strict=True):
        file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda _, images: images.pop(), "lacks the image images/4.png"),
        (lambda r, _: r.update(benchmark="latency"), "no accuracy result"),
        (lambda _, images: images[0].update(dice=7), "no accuracy result"),
        (lambda r, _: r.update(date="2026-01-01T00:00:00+00:00"), "is of another run"),
        (lambda r, _: r["data"]["settings"].update(protocol="whole"), "--protocol whole"),
        (lambda r, _: r["data"]["dataset"].update(split="val"), "--split val"),
    ],
)
def test_results_that_do_not_fit(
    bench: Bench,
    results: list[Path],
    data: Path,
    change: Callable[[Any, Any], object],
    cause: str,
) -> None:
    changed(results[1], change)
    done = bench("significance", *results, "--data", data)
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert results[1].name in done.err and cause in done.err


def test_result_without_its_images(bench: Bench, results: list[Path], data: Path) -> None:
    images_file(results[1]).unlink()
    done = bench("significance", *results, "--data", data)
    assert done.code == 1 and images_file(results[1]).name in done.err


def test_images_are_needed(bench: Bench, results: list[Path]) -> None:
    done = bench("significance", *results)
    assert done.code == 2 and "--data" in done.err


def test_foreign_picture_is_kept(
    bench: Bench, results: list[Path], data: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "new-differences.png"
    picture.write_text("mine")
    done = bench("significance", *results, "--data", data, "-o", tmp_path / "new.json")
    assert done.code == 1 and picture.name in done.err
    assert picture.read_text() == "mine"
    assert not (tmp_path / "new.json").exists()
