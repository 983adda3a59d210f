"""Opening model files to time them, and refusing what is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from cxrseg.benchmarks.speed.models import open_models, random_input
from cxrseg.runtime.core.errors import CxrsegError
from helpers.models.foreign import with_card, write_model


def test_inputs_repeat() -> None:
    one = random_input((1, 3, 8, 8), 0)
    assert one.dtype == np.float32
    assert 0 <= one.min() < one.max() < 1
    assert np.array_equal(one, random_input([1, 3, 8, 8], 0))
    assert not np.array_equal(one, random_input((1, 3, 8, 8), 1))


def test_missing_and_corrupt_models_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(CxrsegError, match=r"none\.onnx: no such model file"):
        open_models([model, tmp_path / "none.onnx"], "cpu", 1)
    foreign = write_model(tmp_path / "foreign.onnx")
    foreign.write_bytes(foreign.read_bytes()[:50])
    with pytest.raises(CxrsegError, match="ONNX Runtime can load"):
        open_models([foreign], "cpu", 1)
    newer = with_card(model, tmp_path / "new.onnx", lambda card: card.update(format_version=99))
    with pytest.raises(CxrsegError, match="is newer"):
        open_models([newer], "cpu", 1)


@pytest.mark.parametrize(
    "options",
    [
        {"shape": (1, 3, "H", "W")},
        {"shape": (2, 3, 32, 32)},
        {"shape": (3, 32, 32)},
        {"shape": (1, 3, 2**16, 2**16)},
        {"kind": TensorProto.DOUBLE},
        {"inputs": ("pixels", "points")},
    ],
)
def test_models_without_a_fixed_image_input_are_refused(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    path = write_model(tmp_path / "odd.onnx", **options)
    cause = r"odd\.onnx: its input is not one image of fixed size: pixels tensor\("
    with pytest.raises(CxrsegError, match=cause):
        open_models([path], "cpu", 1)


def test_model_that_fails(tmp_path: Path) -> None:
    path = write_model(tmp_path / "fails.onnx", ("N", 1, 32, 32), reshape=(7, 7))
    (model,) = open_models([path], "cpu", 1)
    cause = r"fails\.onnx: the model failed on random input \[1, 1, 32, 32\]"
    with pytest.raises(CxrsegError, match=cause):
        model.infer(random_input(model.shape, 0))


def test_device_that_is_not_there(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(CxrsegError, match="--device cuda: not available"):
        open_models([model], "cuda", 1)
