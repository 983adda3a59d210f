"""Masks of other providers and of PyTorch against those of ONNX Runtime on the CPU."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from cxrseg.benchmarks.agreement import agreement, providers
from cxrseg.export.options import ExportOptions
from cxrseg.export.pipeline import export
from cxrseg.export.verify.agreement import SAME_NETWORK
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.inference import session as runtime_session
from cxrseg.runtime.inference.devices import PROVIDERS
from cxrseg.runtime.inference.loading import LoadedModel, load_model

Bench = Callable[..., Any]

CPU, OPENVINO = PROVIDERS["cpu"], PROVIDERS["openvino"]

without_openvino = pytest.mark.skipif(
    OPENVINO in onnxruntime.get_available_providers(), reason="OpenVINO is installed"
)


@pytest.fixture(autouse=True)
def few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (agreement, providers):
        monkeypatch.setattr(module, "RUNS", 3)
        monkeypatch.setattr(module, "WARMUP", 1)


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
def agree_nano(bench: Bench, exported: Path, val_images: Path) -> Bench:
    """Run ``cxrseg-bench agreement`` on the nano model and its validation images."""
    return partial(bench, "agreement", exported, "--images", val_images)


@pytest.fixture
def agree_tiny(bench: Bench, model: Path, data: Path) -> Bench:
    """Run ``cxrseg-bench agreement`` on the tiny model and the test images of `data`."""
    return partial(bench, "agreement", model, "--images", data)


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


def test_with_a_checkpoint(
    agree_nano: Bench, exported: Path, fine_run: Path, val_images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "agreement.json"
    checkpoint = fine_run / "model.ckpt"
    args = ("--limit", 4, "--threads", 1, "--checkpoint", checkpoint)
    result = agree_nano(*args, "-o", output)
    record = json.loads(output.read_text())
    data = record["data"]
    (pair,) = (each for each in data["pairs"] if each["first"] == agreement.TORCH)
    assert pair["second"] == CPU
    assert pair["mean"] > 0.99
    assert pair["with_lungs"] >= 2
    images = json.loads((tmp_path / "agreement-images.json").read_text())["images"]
    shares = {each["image"]: each["equal"][agreement.TORCH] for each in images}
    assert len(shares) == 4
    assert pair["worst"] == min(shares.values()) == shares[pair["worst_image"]]
    assert pair["mean"] == pytest.approx(sum(shares.values()) / 4, abs=1e-6)

    enough = pair["mean"] >= SAME_NETWORK.mean and pair["worst"] >= SAME_NETWORK.worst
    assert result.code == (0 if enough else 1)
    assert "warning" not in result.err
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert data["checkpoint"] == {"file": "model.ckpt", "sha256": digest, "is_the_models": True}
    assert data["model"]["sha256"] == hashlib.sha256(exported.read_bytes()).hexdigest()
    assert data["dataset"] == {"folder": "images", "limit": 4, "images": 4}
    assert data["settings"] == {
        "reference": CPU,
        "threads": 1,
        "runs": 3,
        "warmup": 1,
        "limits": {"mean": 0.999, "worst": 0.995},
    }
    assert {"command", "date", "versions", "machine", "seed"} <= set(record)
    assert data["failed"] == {} and data["passed"] is enough
    assert "torch" in record["versions"]
    (speed,) = (each for each in data["latency"] if each["provider"] == CPU)
    assert speed["ratio"] == 1
    assert 0 < speed["latency_ms"]["p5"] <= speed["latency_ms"]["median"]
    assert speed["cores_busy"] > 0
    assert speed["nodes"][CPU] > 0

    assert pair["worst_image"] in result.out
    for written in tmp_path.glob("agreement*.json"):
        text = written.read_text()
        assert str(tmp_path) not in text and str(val_images) not in text


def test_another_checkpoint_is_told(agree_nano: Bench, base_run: Path) -> None:
    result = agree_nano("--checkpoint", base_run / "model.ckpt")
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
    agree_tiny: Bench, data: Path, twin: Callable[..., None], tmp_path: Path
) -> None:
    twin()
    output = tmp_path / "agreement.json"
    result = agree_tiny("--where", "source=a", "--threads", 1, "-o", output)
    assert result.code == 0, result.err
    assert f"{OPENVINO} : {CPU}" in result.out
    found = json.loads(output.read_text())["data"]
    (pair,) = found["pairs"]
    images = json.loads((tmp_path / "agreement-images.json").read_text())["images"]
    assert [each["image"] for each in images] == ["images/1.png", "images/3.png"]
    assert (pair["mean"], pair["worst"]) == (1, 1)
    assert [each["provider"] for each in found["latency"]] == [CPU, OPENVINO]
    assert found["latency"][1]["ratio"] > 0
    assert found["passed"] is True
    assert found["checkpoint"] is None
    assert found["dataset"] == {
        "csv": "pairs.csv",
        "sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
        "split": "test",
        "where": ["source=a"],
        "protocol": "fields",
        "limit": None,
        "images": 2,
    }


@pytest.mark.parametrize("limit", ["mean", "worst"])
def test_a_limit_that_is_not_met(
    agree_tiny: Bench,
    twin: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    limit: str,
) -> None:
    twin()
    monkeypatch.setattr(agreement, "SAME_NETWORK", replace(SAME_NETWORK, **{limit: 1.1}))
    output = tmp_path / "agreement.json"
    result = agree_tiny("-o", output)
    assert result.code == 1
    assert "masks agree on 1.000000 of the pixels" in result.err
    assert json.loads(output.read_text())["data"]["passed"] is False


def test_a_provider_that_runs_nothing(agree_tiny: Bench, twin: Callable[..., None]) -> None:
    twin(CPU)
    result = agree_tiny()
    assert result.code == 1
    assert f"{OPENVINO}: runs no part of the model" in result.err


@without_openvino
@pytest.mark.usefixtures("offered")
def test_a_provider_that_falls_back(agree_nano: Bench, fine_run: Path, tmp_path: Path) -> None:
    """ONNX Runtime itself would go on with the CPU and say nothing."""
    assert "openvino" in runtime_session.available_devices()
    output = tmp_path / "agreement.json"
    result = agree_nano("--checkpoint", fine_run / "model.ckpt", "-o", output)
    assert result.code == 1
    assert "could not start" in result.err
    record = json.loads(output.read_text())["data"]
    assert list(record["failed"]) == ["openvino"]
    assert [each["first"] for each in record["pairs"]] == [agreement.TORCH]
    assert "Not started: --device openvino" in result.out


@without_openvino
@pytest.mark.parametrize("name", [None, "offered"])
def test_nothing_to_compare(
    agree_tiny: Bench, name: str | None, request: pytest.FixtureRequest
) -> None:
    if name is not None:
        request.getfixturevalue(name)
    result = agree_tiny()
    assert result.code == 1
    assert "nothing to compare" in result.err
    assert "onnxruntime-openvino" in result.err and "--checkpoint" in result.err
    assert result.out == ""


@pytest.mark.skipif(
    OPENVINO not in onnxruntime.get_available_providers(), reason="needs onnxruntime-openvino"
)
def test_openvino(agree_tiny: Bench, tmp_path: Path) -> None:
    output = tmp_path / "agreement.json"
    result = agree_tiny("-o", output)
    assert result.code == 0, result.err
    record = json.loads(output.read_text())["data"]
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
