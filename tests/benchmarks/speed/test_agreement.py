"""Masks of other providers and of PyTorch against those of ONNX Runtime on the CPU."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
from onnx import numpy_helper

from cxrseg.benchmarks.speed import agreement
from cxrseg.benchmarks.speed.agreement import (
    Pair,
    compare_all,
    complaints,
    placement,
    provider_backend,
)
from cxrseg.export.pipeline import ExportOptions, export
from cxrseg.export.verify import agreement as compare
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.inference import session as runtime_session
from cxrseg.runtime.inference.devices import PROVIDERS
from cxrseg.runtime.inference.session import LoadedModel, load_model

Bench = Callable[..., Any]

CPU, OPENVINO = PROVIDERS["cpu"], PROVIDERS["openvino"]

without_openvino = pytest.mark.skipif(
    OPENVINO in onnxruntime.get_available_providers(), reason="OpenVINO is installed"
)


@pytest.fixture(autouse=True)
def few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "RUNS", 3)
    monkeypatch.setattr(agreement, "WARMUP", 1)


@pytest.fixture(scope="session")
def exported(fine_run: Path, phantom_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the INT8 file of the nano model."""
    path = tmp_path_factory.mktemp("exported") / "nano.onnx"
    export(fine_run / "model.ckpt", path, ExportOptions(verify_images=phantom_data / "val/images"))
    return path


@pytest.fixture
def val_images(phantom_data: Path) -> Path:
    return phantom_data / "val/images"


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the CPU provider stand in for OpenVINO; `where` is who is said to run the nodes."""

    def install(where: str = OPENVINO) -> None:
        def open_devices(
            model: Path, threads: int
        ) -> tuple[dict[str, LoadedModel], dict[str, CxrsegError]]:
            cpu = load_model(model, "cpu", threads)
            return {"cpu": cpu, "openvino": replace(cpu, provider=OPENVINO)}, {}

        def placed(_model: bytes, provider: str, _batch: object, _threads: int) -> dict[str, int]:
            return {CPU: 5} if provider == CPU else {where: 2}

        monkeypatch.setattr(agreement, "open_devices", open_devices)
        monkeypatch.setattr(agreement, "placement", placed)

    return install


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ONNX Runtime claim to have OpenVINO."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [OPENVINO, CPU])


def test_figures_by_hand() -> None:
    pair = Pair("a", "b", (("x", 1.0), ("y", 0.95), ("z", 0.95)), 3)
    assert pair.mean == pytest.approx(2.9 / 3)
    assert (pair.worst, pair.worst_image) == (0.95, "y")


def test_different_masks_are_counted(model: Path, data: Path) -> None:
    """The other backend finds no left lung."""
    loaded = load_model(model, "cpu", 1)
    run = provider_backend(loaded)

    def half(batch: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        logits = run(batch).copy()
        logits[1] = -1
        return logits

    images = [(f"{n}.png", data.parent / f"images/{n}.png") for n in (1, 2)]
    backends = {"same": run, "half": half}
    same, other = compare_all(backends, (CPU, run), images, loaded.card)
    assert (same.mean, same.worst, same.with_lungs) == (1, 1, 2)
    assert [name for name, _ in other.shares] == ["1.png", "2.png"]
    assert other.second == CPU
    for (name, share), (_, path) in zip(other.shares, images, strict=True):
        logits = run(_batch(loaded, path))
        left = cv2.resize(logits[1], (64, 64)) > np.maximum(0, cv2.resize(logits[0], (64, 64)))
        # Where the left lung goes, the right lung may take a border pixel; none do here.
        assert share == pytest.approx(1 - left.mean(), abs=1e-9), name
    assert other.worst < 0.95


def _batch(loaded: LoadedModel, path: Path) -> Any:
    from cxrseg.runtime.core.preprocess import preprocess
    from cxrseg.runtime.readers import read

    return preprocess(read(path).pixels, loaded.card.preprocessing)[None, None]


def test_nodes_are_counted(model: Path) -> None:
    batch = np.zeros((1, 1, 64, 64), np.float32)
    nodes = placement(model.read_bytes(), CPU, batch, 1)
    assert list(nodes) == [CPU]
    assert nodes[CPU] >= 3


def test_values_that_are_not_numbers(model: Path) -> None:
    import onnx

    graph = onnx.load(model)
    level = next(each for each in graph.graph.initializer if each.name == "level")
    level.CopyFrom(numpy_helper.from_array(np.array(np.nan, np.float32), "level"))
    onnx.save(graph, model)
    run = provider_backend(load_model(model, "cpu", 1))
    with pytest.raises(CxrsegError, match="not numbers"):
        run(np.zeros((1, 1, 64, 64), np.float32))


def test_with_a_checkpoint(
    bench: Bench, exported: Path, fine_run: Path, val_images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "agreement.json"
    checkpoint = fine_run / "model.ckpt"
    args = ("agreement", exported, "--images", val_images, "--limit", 4, "--threads", 1)
    result = bench(*args, "--checkpoint", checkpoint, "-o", output)
    record = json.loads(output.read_text())
    (pair,) = (each for each in record["pairs"] if each["first"] == agreement.TORCH)
    assert pair["second"] == CPU
    assert pair["mean"] > 0.99
    assert pair["with_lungs"] >= 2
    shares = {each["image"]: each["equal"] for each in pair["images"]}
    assert len(shares) == 4
    assert pair["worst"] == min(shares.values()) == shares[pair["worst_image"]]
    assert pair["mean"] == pytest.approx(sum(shares.values()) / 4, abs=1e-6)

    enough = (
        pair["mean"] >= compare.SAME_NETWORK.mean and pair["worst"] >= compare.SAME_NETWORK.worst
    )
    assert result.code == (0 if enough else 1)
    assert "warning" not in result.err
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert record["checkpoint"] == {"file": "model.ckpt", "sha256": digest, "is_the_models": True}
    assert record["model"]["sha256"] == hashlib.sha256(exported.read_bytes()).hexdigest()
    assert record["data"] == {"folder": "images", "limit": 4, "images": 4}
    assert record["settings"] == {
        "reference": CPU,
        "threads": 1,
        "runs": 3,
        "warmup": 1,
        "limits": {"mean": 0.999, "worst": 0.995},
    }
    assert {"command", "date", "versions", "machine", "seed", "failed", "passed"} <= set(record)
    assert "torch" in record["versions"]
    (speed,) = (each for each in record["latency"] if each["provider"] == CPU)
    assert speed["ratio"] == 1
    assert len(speed["latency_ms"]["samples"]) == 3
    assert speed["nodes"][CPU] > 0

    markdown = (tmp_path / "agreement.md").read_text()
    for text in (record["command"], pair["worst_image"], record["model"]["sha256"]):
        assert text in markdown
    for written in (output.read_text(), markdown):
        assert str(tmp_path) not in written and str(val_images) not in written


def test_another_checkpoint_is_told(
    bench: Bench, exported: Path, base_run: Path, val_images: Path
) -> None:
    result = bench(
        "agreement", exported, "--images", val_images, "--checkpoint", base_run / "model.ckpt"
    )
    assert "was not exported from" in result.err


def test_a_checkpoint_of_another_size(
    bench: Bench, model: Path, fine_run: Path, val_images: Path
) -> None:
    result = bench(
        "agreement", model, "--images", val_images, "--checkpoint", fine_run / "model.ckpt"
    )
    assert result.code == 1
    assert "another input or other labels" in result.err


def test_another_provider(
    bench: Bench, model: Path, data: Path, twin: Callable[..., None], tmp_path: Path
) -> None:
    twin()
    output = tmp_path / "agreement.json"
    args = ("agreement", model, "--images", data, "--where", "source=a", "--threads", 1)
    result = bench(*args, "-o", output)
    assert result.code == 0, result.err
    assert f"{OPENVINO} : {CPU}" in result.out
    record = json.loads(output.read_text())
    (pair,) = record["pairs"]
    assert [each["image"] for each in pair["images"]] == ["images/1.png", "images/3.png"]
    assert (pair["mean"], pair["worst"]) == (1, 1)
    assert [each["provider"] for each in record["latency"]] == [CPU, OPENVINO]
    assert record["latency"][1]["ratio"] > 0
    assert record["passed"] is True
    assert record["checkpoint"] is None
    assert record["data"] == {
        "csv": "pairs.csv",
        "sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
        "split": "test",
        "where": ["source=a"],
        "protocol": "fields",
        "limit": None,
        "images": 2,
    }


def test_repeated_images_all_count(model: Path, data: Path) -> None:
    loaded = load_model(model, "cpu", 1)
    run = provider_backend(loaded)
    images = [("1.png", data.parent / "images/1.png")] * 2
    (pair,) = compare_all({"same": run}, (CPU, run), images, loaded.card)
    assert len(pair.shares) == 2


@pytest.mark.parametrize("limit", ["mean", "worst"])
def test_a_limit_that_is_not_met(
    bench: Bench,
    model: Path,
    data: Path,
    twin: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    limit: str,
) -> None:
    twin()
    monkeypatch.setattr(compare, "SAME_NETWORK", replace(compare.SAME_NETWORK, **{limit: 1.1}))
    output = tmp_path / "agreement.json"
    result = bench("agreement", model, "--images", data, "-o", output)
    assert result.code == 1
    assert "masks agree on 1.000000 of the pixels" in result.err
    assert json.loads(output.read_text())["passed"] is False


def test_limits_on_both_sides() -> None:
    enough, worst = compare.SAME_NETWORK.mean, compare.SAME_NETWORK.worst
    at_limit = Pair("a", "b", (("x", 1.0), ("y", worst), *((str(n), 1.0) for n in range(8))), 10)
    assert at_limit.mean >= enough
    assert complaints([at_limit], {}) == []
    below = Pair("a", "b", (("x", worst - 1e-6), *((str(n), 1.0) for n in range(99))), 100)
    assert below.mean > enough
    assert len(complaints([below], {})) == 1
    on_average = Pair("a", "b", (("x", 0.9985), ("y", 0.9985)), 2)
    assert len(complaints([on_average], {})) == 1


def test_empty_masks_prove_nothing() -> None:
    (error,) = complaints([Pair("a", "b", (("x", 1.0), ("y", 1.0), ("z", 1.0)), 1)], {})
    assert "lungs are found on 1 of 3 images" in str(error)


def test_a_provider_that_runs_nothing(
    bench: Bench, model: Path, data: Path, twin: Callable[..., None]
) -> None:
    twin(CPU)
    result = bench("agreement", model, "--images", data)
    assert result.code == 1
    assert f"{OPENVINO}: runs no part of the model" in result.err


@without_openvino
def test_a_provider_that_falls_back(
    bench: Bench, exported: Path, fine_run: Path, val_images: Path, offered: None, tmp_path: Path
) -> None:
    """ONNX Runtime itself would go on with the CPU and say nothing."""
    assert "openvino" in runtime_session.available_devices()
    output = tmp_path / "agreement.json"
    args = ("agreement", exported, "--images", val_images, "-o", output)
    result = bench(*args, "--checkpoint", fine_run / "model.ckpt")
    assert result.code == 1
    assert "could not start" in result.err
    record = json.loads(output.read_text())
    assert list(record["failed"]) == ["openvino"]
    assert [each["first"] for each in record["pairs"]] == [agreement.TORCH]
    assert "Not started" in (tmp_path / "agreement.md").read_text()


@without_openvino
@pytest.mark.parametrize("name", [None, "offered"])
def test_nothing_to_compare(
    bench: Bench, model: Path, data: Path, name: str | None, request: pytest.FixtureRequest
) -> None:
    if name is not None:
        request.getfixturevalue(name)
    result = bench("agreement", model, "--images", data)
    assert result.code == 1
    assert "nothing to compare" in result.err
    assert "onnxruntime-openvino" in result.err and "--checkpoint" in result.err
    assert result.out == ""


@pytest.mark.skipif(
    OPENVINO not in onnxruntime.get_available_providers(), reason="needs onnxruntime-openvino"
)
def test_openvino(bench: Bench, model: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "agreement.json"
    result = bench("agreement", model, "--images", data, "-o", output)
    assert result.code == 0, result.err
    record = json.loads(output.read_text())
    assert record["failed"] == {}
    assert [each["provider"] for each in record["latency"]] == [CPU, OPENVINO]
    assert record["latency"][1]["nodes"][OPENVINO] > 0
    assert record["pairs"][0]["mean"] > 0.999


def test_bad_folders(bench: Bench, model: Path, tmp_path: Path) -> None:
    result = bench("agreement", model, "--images", tmp_path / "nowhere")
    assert result.code == 1
    assert "no such folder or CSV" in result.err
    (tmp_path / "empty").mkdir()
    result = bench("agreement", model, "--images", tmp_path / "empty")
    assert result.code == 1
    assert "the folder holds no images" in result.err


@pytest.mark.parametrize(
    "option", [("--split", "val"), ("--where", "a=b"), ("--protocol", "whole")]
)
def test_a_folder_has_no_rows(
    bench: Bench, model: Path, data: Path, option: tuple[str, str]
) -> None:
    result = bench("agreement", model, "--images", data.parent / "images", *option)
    assert result.code == 2
    assert f"{option[0]} chooses rows of a CSV" in result.err


def test_a_bad_output_is_refused_first(bench: Bench, model: Path, tmp_path: Path) -> None:
    result = bench("agreement", model, "--images", tmp_path, "-o", tmp_path / "a.txt")
    assert result.code == 1
    assert "does not end in .json" in result.err


def test_help_teaches(bench: Bench) -> None:
    result = bench("agreement", "--help")
    assert result.code == 0
    for word in ("onnxruntime-openvino", "Exit code 1", "Examples", "--checkpoint"):
        assert word in result.out
