"""What a model gives when it runs: the promised shape and type, and finite numbers, or no mask."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cxrseg.runtime import CxrsegError, Segmenter
from cxrseg.runtime.inference.loading import LoadedModel, load_model
from cxrseg.runtime.inference.running import run_model

BATCH = np.zeros((1, 1, 64, 64), np.float32)


class Session:
    """Answers what it is told, as a session whose file does not keep its promise."""

    def __init__(self, *outputs: Any) -> None:
        self.outputs = list(outputs)

    def run(self, names: list[str], feeds: dict[str, Any]) -> list[Any]:
        return self.outputs


def answering(model_file: Any, *outputs: Any) -> LoadedModel:
    return replace(load_model(model_file(), "cpu", 1), session=Session(*outputs))


def test_promised_answer_is_taken(model_file) -> None:
    logits = np.arange(512, dtype=np.float32).reshape(1, 2, 16, 16)
    found = run_model(answering(model_file, logits), BATCH, "x.png")
    np.testing.assert_array_equal(found, logits[0])


@pytest.mark.parametrize(
    "shape",
    [
        (1, 2, 0, 0),
        (0, 2, 16, 16),
        (1, 1, 16, 16),
        (1, 3, 16, 16),
        (1, 2, 1, 1),
        (1, 2, 16, 40),
        (1, 2, 64, 64),
        (2, 2, 16, 16),
        (2, 16, 16),
        (1, 2, 16, 16, 3),
        (1,),
        (),
    ],
)
def test_another_shape_is_refused(model_file, chest, monkeypatch, shape: tuple[int, ...]) -> None:
    model = answering(model_file, np.ones(shape, np.float32))
    cause = rf"the model gave float32 \[{', '.join(map(str, shape))}\] instead of float32"
    with pytest.raises(CxrsegError, match=cause):
        run_model(model, BATCH, "x.png")
    segmenter = Segmenter(model_file(), "cpu", 1)
    monkeypatch.setattr(segmenter, "model", model)
    with pytest.raises(CxrsegError, match=r"x\.png: the model gave"):
        segmenter.segment(chest(), "x.png")


@pytest.mark.parametrize("kind", ["float64", "float16", "int64", "uint8", "bool", "object"])
def test_another_type_is_refused(model_file, kind: str) -> None:
    model = answering(model_file, np.ones((1, 2, 16, 16), kind))
    with pytest.raises(CxrsegError, match=rf"the model gave {kind} \[1, 2, 16, 16\]"):
        run_model(model, BATCH, "x.png")
    with pytest.raises(CxrsegError, match="the model gave a list"):
        run_model(answering(model_file, [1, 2]), BATCH, "x.png")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_numbers_are_refused(model_file, value: float) -> None:
    logits = np.ones((1, 2, 16, 16), np.float32)
    logits[0, 1, 3, 4] = value
    with pytest.raises(CxrsegError, match="values that are not numbers"):
        run_model(answering(model_file, logits), BATCH, "x.png")


@pytest.mark.parametrize(
    ("provider", "remedy"),
    [("CPUExecutionProvider", "; use another"), ("CUDAExecutionProvider", "; try --device cpu")],
)
def test_failure_is_told_without_places_in_the_source(
    model_file, provider: str, remedy: str
) -> None:
    class Failing(Session):
        def run(self, names: list[str], feeds: dict[str, Any]) -> list[Any]:
            raise RuntimeError(f"Error while running Conv node. /core/x.cc:9 f(int) {feeds.keys()}")

    model = replace(answering(model_file), session=Failing(), provider=provider)
    with pytest.raises(CxrsegError) as told:
        run_model(model, BATCH, "x.png")
    start = "x.png: the model failed on this image (in one of its Conv nodes)"
    assert str(told.value).startswith(start + remedy)
