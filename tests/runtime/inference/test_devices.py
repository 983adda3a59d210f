from __future__ import annotations

import json

import pytest

from cxrseg.runtime.inference.devices import PROVIDERS
from helpers.runs import names


@pytest.mark.parametrize("make", ["missing", "corrupt", "foreign"])
def test_bad_model_is_one_line_and_exit_1(
    run_cxrseg, model_file, chest_png, tmp_path, make: str
) -> None:
    if make == "missing":
        path = tmp_path / "none.onnx"
    elif make == "corrupt":
        path = tmp_path / "bad.onnx"
        path.write_bytes(b"garbage" * 30)
    else:
        path = model_file(card="")
    result = run_cxrseg(chest_png, "--model", path, "-o", tmp_path / "out")
    assert (result.code, result.out, len(result.errors)) == (1, "", 1)
    assert result.err.startswith(f"error: {path}: ")
    assert names(chest_png.parent) == ["x.png"] and not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_line_and_report_name_the_provider(
    run_cxrseg, model_file, chest_png, monkeypatch, device: str
) -> None:
    offer(monkeypatch, "cpu")
    result = run_cxrseg(chest_png, "--model", model_file(), "--device", device)
    assert (result.code, result.err) == (0, "")
    assert " ms on CPUExecutionProvider -> " in result.out
    report = json.loads(chest_png.with_suffix(".json").read_text())
    assert report["provider"] == "CPUExecutionProvider"


def offer(monkeypatch: pytest.MonkeyPatch, *devices: str) -> None:
    """Have ONNX Runtime claim to offer these devices."""
    import onnxruntime

    claimed = [PROVIDERS[device] for device in devices]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: claimed)


def fail_on(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """Have ONNX Runtime raise an exception when it starts the device."""
    import onnxruntime

    create = onnxruntime.InferenceSession

    def session(data: bytes, options: object, providers: list[str], **rest: object) -> object:
        if PROVIDERS[device] in providers:
            raise RuntimeError("driver too old\nand more")
        return create(data, options, providers=providers, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)


def test_unavailable_device_is_refused_with_the_available_ones(
    run_cxrseg, model_file, chest_png, monkeypatch
) -> None:
    offer(monkeypatch, "cpu")
    for device in PROVIDERS.keys() - {"cpu"}:
        result = run_cxrseg(chest_png, "--model", model_file(), "--device", device)
        assert (result.code, result.out, len(result.errors)) == (1, "", 1)
        assert result.err.startswith(f"error: --device {device}: not available")
        assert result.err.endswith("; available here: auto, cpu\n")
    assert names(chest_png.parent) == ["x.png"]


@pytest.mark.parametrize("how", ["does not start", "raises", "computes nothing"])
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_device_that_does_not_work_is_refused_unless_auto(
    run_cxrseg, model_file, chest_png, monkeypatch, how: str
) -> None:
    import onnxruntime

    if how == "computes nothing":
        # A real provider that starts and takes no part of any such model.
        idle = "AzureExecutionProvider"
        if idle not in onnxruntime.get_available_providers():
            pytest.skip("this ONNX Runtime lacks it")
        if not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"):
            pytest.skip("this ONNX Runtime does not tell who computes")
        monkeypatch.setitem(PROVIDERS, "cuda", idle)
    elif PROVIDERS["cuda"] in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    if how == "raises":
        fail_on(monkeypatch, "cuda")
    offer(monkeypatch, "cuda", "cpu")
    model = model_file()
    named = run_cxrseg(chest_png, "--model", model, "--device", "cuda")
    assert (named.code, named.out, len(named.errors)) == (1, "", 1)
    assert named.err.startswith("error: --device cuda: ONNX Runtime offers the device but could")
    assert named.err.endswith("; available here: auto, cpu\n")
    assert ("(driver too old" in named.err) is (how == "raises")
    assert names(chest_png.parent) == ["x.png"]
    auto = run_cxrseg(chest_png, "--model", model)
    assert (auto.code, auto.err) == (0, "") and " on CPUExecutionProvider -> " in auto.out


def test_corrupt_model_is_not_blamed_on_the_device(
    run_cxrseg, chest_png, tmp_path, monkeypatch
) -> None:
    offer(monkeypatch, "cuda", "cpu")
    fail_on(monkeypatch, "cuda")
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"garbage" * 30)
    result = run_cxrseg(chest_png, "--model", bad, "--device", "cuda")
    assert result.code == 1 and result.err.startswith(f"error: {bad}: is not a model")
