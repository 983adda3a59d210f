"""Model files that are not, or not quite, of cxrseg."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cxrseg.runtime.core.model_card import METADATA_KEY


def write_model(
    path: Path,
    shape: Sequence[int | str] = (1, 3, 32, 32),
    kind: int = TensorProto.FLOAT,
    inputs: Sequence[str] = ("pixels",),
    reshape: Sequence[int] = (-1,),
) -> Path:
    """Write a model without a card that reshapes its first input."""
    nodes = [helper.make_node("Reshape", [inputs[0], "form"], ["out"])]
    ports = [helper.make_tensor_value_info(name, kind, list(shape)) for name in inputs]
    out = helper.make_tensor_value_info("out", kind, None)
    form = numpy_helper.from_array(np.array(reshape, np.int64), "form")
    graph = helper.make_graph(nodes, "foreign", ports, [out], [form])
    opset = helper.make_opsetid("", 20)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def with_card(source: Path, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Write a copy of a model with a changed card."""
    model = onnx.load(str(source))
    card = json.loads(model.metadata_props[0].value)
    change(card)
    del model.metadata_props[:]
    helper.set_model_props(model, {METADATA_KEY: json.dumps(card)})
    path.write_bytes(model.SerializeToString())
    return path
