"""One model on an execution provider: its nodes and its values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from cxrseg.benchmarks.agreement.providers import placement, provider_backend
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.inference.devices import PROVIDERS
from cxrseg.runtime.inference.loading import load_model

CPU = PROVIDERS["cpu"]


def test_nodes_are_counted(model: Path) -> None:
    batch = np.zeros((1, 1, 64, 64), np.float32)
    nodes = placement(model.read_bytes(), CPU, batch, 1)
    assert list(nodes) == [CPU]
    assert nodes[CPU] >= 3


def test_values_that_are_not_numbers(model: Path) -> None:
    graph = onnx.load(model)
    level = next(each for each in graph.graph.initializer if each.name == "level")
    level.CopyFrom(numpy_helper.from_array(np.array(np.nan, np.float32), "level"))
    onnx.save(graph, model)
    run = provider_backend(load_model(model, "cpu", 1))
    with pytest.raises(CxrsegError, match="not numbers"):
        run(np.zeros((1, 1, 64, 64), np.float32))
