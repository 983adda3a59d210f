from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from cxrseg.runtime import CxrsegError
from cxrseg.runtime.inference.loading import Loading, load_model
from cxrseg.runtime.inference.session import available_devices, default_threads

CARD = {
    "format_version": 1,
    "name": "tiny",
    "version": "1",
    "labels": ["right_lung", "left_lung"],
    "preprocessing": {"size": 64, "low": 0.5, "high": 99.5},
    "precision": {},
    "checkpoint_sha256": "",
    "metrics": {},
    "license": "",
    "intended_use": "",
}


def test_loads_a_model_that_keeps_the_contract(model_file) -> None:
    path = model_file()
    model = load_model(path, "cpu", threads=1)
    assert model.card.name == "tiny"
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.provider == "CPUExecutionProvider"


def test_auto_always_finds_a_device(model_file) -> None:
    assert load_model(model_file(), "auto").provider
    assert "cpu" in available_devices()
    assert default_threads() >= 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"card": ""}, "not one of cxrseg's"),
        ({"card": "not json"}, "card that cannot be used"),
        ({"card": "[]"}, "card that cannot be used"),
        ({"card": "[" * 100_000}, "card that cannot be used"),
        ({"card": json.dumps(CARD | {"format_version": 99})}, "newer"),
        ({"card": json.dumps(CARD | {"format_version": float("inf")})}, "cannot be used"),
        ({"card": json.dumps(CARD | {"labels": ["spleen", "left_lung"]})}, "spleen"),
        ({"card": json.dumps(CARD | {"labels": ["left_lung", "left_lung"]})}, "twice"),
        ({"card": json.dumps(CARD | {"preprocessing": {"size": 65}})}, "cannot be used"),
        ({"card_size": 128}, "input is not as its model card says"),
        ({"card_labels": ("right_lung",)}, "output is not as its model card says"),
        ({"input_name": "x"}, "input is not as its model card says"),
    ],
)
def test_model_that_breaks_the_contract_is_refused(model_file, options, reason: str) -> None:
    with pytest.raises(CxrsegError, match=reason) as info:
        load_model(model_file(**options), "cpu")
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("content", [b"", b"not an onnx file", b"\x08\x0a" * 40])
def test_corrupt_model_is_refused_quietly(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(CxrsegError, match="not a model"):
        load_model(path, "cpu")
    assert capfd.readouterr() == ("", "")


def test_truncated_model_is_refused(model_file) -> None:
    path = model_file()
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(CxrsegError):
        load_model(path, "cpu")


def test_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CxrsegError, match="no such model file"):
        load_model(tmp_path / "none.onnx", "cpu")
    with pytest.raises(CxrsegError, match="is not a file"):
        load_model(tmp_path, "cpu")


@pytest.mark.parametrize("where", ["side.bin", "models/side.bin", "absolute"])
def test_model_cannot_read_other_files(
    model_file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    weight_at = str(tmp_path / "side.bin") if where == "absolute" else where
    path = model_file(weight_at=weight_at)
    for folder in (tmp_path, path.parent):
        (folder / "side.bin").write_bytes(bytes(4 * 2 * 16 * 16))
    with pytest.raises(CxrsegError, match="not a model"):
        load_model(path, "cpu")


def test_unavailable_device_lists_the_available_ones(
    model_file, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(CxrsegError, match=r"not available.*auto, cpu"):
        load_model(model_file(), "cuda")
    with pytest.raises(CxrsegError, match="no such device"):
        load_model(model_file(), "abacus")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_device_that_cannot_start_is_refused_unless_auto(
    model_file, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    claimed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: claimed)
    with pytest.raises(CxrsegError, match="--device cuda"):
        load_model(model_file(), "cuda")
    assert load_model(model_file(), "auto").provider == "CPUExecutionProvider"
    assert "Falling back" not in capfd.readouterr().out


def test_loading_in_the_background(model_file, tmp_path) -> None:
    path = model_file()
    loading = Loading(path, "cpu", 1)
    assert loading.model().sha256 == load_model(path, "cpu", 1).sha256
    assert loading.model() == loading.model()
    missing = Loading(tmp_path / "none.onnx", "cpu")
    for _ in range(2):
        with pytest.raises(CxrsegError, match="no such model file"):
            missing.model()


@pytest.mark.parametrize(("once", "spins"), [(True, "0"), (False, "1")])
def test_threads_do_not_spin_for_a_single_inference(model_file, once: bool, spins: str) -> None:
    options = Loading(model_file(), "cpu", 2, once=once).model().session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == spins
