"""Model files whose contents are not what ``cxrseg-export`` writes: graph and model card."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from cxrseg.runtime.core.model_card import METADATA_KEY
from cxrseg.runtime.inference.shapes import RULES
from helpers.fuzz.damage import seldom_damaged
from helpers.models.tiny import TinyModel, build_model

_OPERATORS = [
    *RULES,
    "Identity",
    "Loop",
    "NonZero",
    "Unique",
    "Einsum",
    "Tile",
    "QLinearMatMul",
    "",
]
_INTEGERS = [
    -(2**63),
    -(2**31),
    -65,
    -2,
    -1,
    0,
    1,
    2,
    3,
    4,
    8,
    16,
    64,
    65,
    1 << 20,
    2**31,
    2**63 - 1,
]
_FLOATS = [0.0, -1.0, 1e-45, 1e-8, 1.0, 3e38, float("inf"), float("-inf"), float("nan")]
_NAMES = [
    *("axis", "axes", "keepdims", "perm", "kernel_shape", "strides", "pads", "dilations", "group"),
    *("to", "epsilon", "alpha", "transA", "transB", "auto_pad", "mode", "block_size", "saturate"),
    *("output_dtype", "allowzero", "ceil_mode", "count_include_pad", "approximate", "output_shape"),
]
_TEXTS = [
    "",
    "SAME_UPPER",
    "VALID",
    "NOTSET",
    "linear",
    "cubic",
    "tanh",
    "constant",
    "edge",
    "wrap",
]
_CARD = [None, True, -1, 0, 1, 2**70, 1e308, "", "x" * 9999, [], {}, ["heart"], "\ud800", 64.5]


@cache
def sound_models() -> list[bytes]:
    """Return the tiny model and, with PyTorch, a quantized nano network of the exporter."""
    if find_spec("torch") is None:
        return [build_model(TinyModel())]
    with TemporaryDirectory() as folder:
        path = Path(folder, "nano.onnx")
        # In a process of its own, so that PyTorch takes no memory of this one.
        subprocess.run([sys.executable, "-m", "helpers.models.nano", str(path)], check=True)
        return [path.read_bytes(), build_model(TinyModel())]


_integers = st.one_of(st.sampled_from(_INTEGERS), st.integers(-8, 300))


@st.composite
def _values_of_names(draw: DrawFn, graph: GraphProto) -> str:
    """Draw the name of a value of the graph, or none that is there."""
    names = [node.output[0] for node in graph.node if node.output]
    names += [tensor.name for tensor in graph.initializer]
    return draw(st.one_of(st.sampled_from(names), st.sampled_from(["", "image", "logits", "?"])))


@st.composite
def _change_node(draw: DrawFn, graph: GraphProto) -> None:
    node = graph.node[draw(st.integers(0, len(graph.node) - 1))]
    how = draw(st.sampled_from(["operator", "input", "more", "fewer", "output", "loss", "again"]))
    if how == "operator":
        node.op_type = draw(st.sampled_from(_OPERATORS))
    elif how == "input" and node.input:
        node.input[draw(st.integers(0, len(node.input) - 1))] = draw(_values_of_names(graph))
    elif how == "more":
        node.input.append(draw(_values_of_names(graph)))
    elif how == "fewer" and node.input:
        del node.input[-1]
    elif how == "output":
        node.output[0] = draw(_values_of_names(graph))
    elif how == "loss":
        graph.node.remove(node)
    else:
        at = draw(st.integers(0, len(graph.node)))
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.output[0] += draw(st.sampled_from(["", "+"]))
        graph.node.insert(at, copy)


@st.composite
def _change_attribute(draw: DrawFn, graph: GraphProto) -> None:
    nodes = [node for node in graph.node if node.attribute] or list(graph.node)
    node = draw(st.sampled_from(nodes))
    how = draw(st.sampled_from(["one", "one", "loss", "new", "type"]))
    attribute = draw(st.sampled_from(list(node.attribute))) if node.attribute else None
    if how == "one" and attribute is not None and attribute.ints:
        attribute.ints[draw(st.integers(0, len(attribute.ints) - 1))] = draw(_integers)
    elif how == "one" and attribute is not None:
        attribute.i, attribute.f = draw(_integers), draw(st.sampled_from(_FLOATS))
    elif how == "loss" and attribute is not None:
        node.attribute.remove(attribute)
    elif how == "type" and attribute is not None:
        attribute.type = draw(st.integers(0, 14))
    else:
        value = draw(
            st.one_of(
                _integers,
                st.lists(_integers, min_size=1, max_size=6),
                st.sampled_from(_TEXTS),
                st.sampled_from(_FLOATS),
            )
        )
        node.attribute.append(helper.make_attribute(draw(st.sampled_from(_NAMES)), value))


@st.composite
def _change_constant(draw: DrawFn, graph: GraphProto) -> None:
    constant = graph.initializer[draw(st.integers(0, len(graph.initializer) - 1))]
    how = draw(st.sampled_from(["values", "values", "values", "dims", "type", "name", "fill"]))
    small = [each for each in graph.initializer if each.data_type == TensorProto.INT64]
    if how == "values" and small:
        constant = draw(st.sampled_from(small))
        count = len(constant.raw_data) // 8
        numbers = list(struct.unpack(f"<{count}q", constant.raw_data))
        if numbers:
            numbers[draw(st.integers(0, count - 1))] = draw(_integers)
        constant.raw_data = struct.pack(f"<{count}q", *numbers)
    elif how == "dims":
        dims = list(constant.dims) or [1]
        at = draw(st.integers(0, len(dims) - 1))
        changed = [dims[::-1], [*dims, 1], [1, *dims], dims[1:], [*dims[:at], draw(_integers)]]
        constant.ClearField("dims")
        constant.dims.extend(draw(st.sampled_from(changed)))
    elif how == "type":
        constant.data_type = draw(st.integers(0, 23))
    elif how == "name":
        constant.name = draw(_values_of_names(graph))
    else:
        unit = draw(
            st.one_of(
                st.sampled_from(_FLOATS).map(lambda value: struct.pack("<f", value)),
                st.binary(min_size=1, max_size=8),
            )
        )
        size = len(constant.raw_data)
        constant.raw_data = (unit * (size // len(unit) + 1))[:size]


@st.composite
def _change_port(draw: DrawFn, graph: GraphProto) -> None:
    ports = [*graph.input, *graph.output]
    port = draw(st.sampled_from(ports))
    tensor = port.type.tensor_type
    how = draw(st.sampled_from(["dims", "dims", "type", "name", "again"]))
    if how == "dims" and tensor.shape.dim:
        dimension = draw(st.sampled_from(list(tensor.shape.dim)))
        if draw(st.booleans()):
            dimension.dim_value = draw(_integers)
        else:
            dimension.dim_param = draw(st.sampled_from(["", "N", "x"]))
    elif how == "type":
        tensor.elem_type = draw(st.integers(0, 23))
    elif how == "name":
        port.name = draw(_values_of_names(graph))
    else:
        draw(st.sampled_from([graph.input, graph.output, graph.value_info])).append(port)


@st.composite
def _change_model(draw: DrawFn, model: ModelProto) -> None:
    """Change what is around the graph: versions, and the model card."""
    how = draw(st.sampled_from(["version", "opset", "card", "card", "entry"]))
    if how == "version":
        model.ir_version = draw(st.integers(0, 40))
    elif how == "opset" and model.opset_import:
        model.opset_import[0].version = draw(st.integers(-1, 40))
    elif how == "card":
        card = json.loads(TinyModel().properties()[METADATA_KEY])
        target = draw(st.sampled_from([card, card["preprocessing"]]))
        target[draw(st.sampled_from(sorted(target)))] = draw(st.sampled_from(_CARD))
        helper.set_model_props(model, {METADATA_KEY: json.dumps(card)})
    else:
        entry = draw(st.sampled_from(list(model.metadata_props)))
        entry.value = draw(st.sampled_from(["", "{}", "[" * 99_999, entry.value[:-9], "NaN"]))


@st.composite
def model_files(draw: DrawFn) -> bytes:
    """Draw a model file with one to three changes of its contents, and of its bytes at times."""
    content = draw(st.sampled_from(sound_models()))
    model = onnx.load_from_string(content)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        where = draw(
            st.sampled_from(["node", "attribute", "constant", "constant", "port", "model"])
        )
        change = {
            "node": _change_node,
            "attribute": _change_attribute,
            "constant": _change_constant,
            "port": _change_port,
        }.get(where)
        draw(change(model.graph) if change else _change_model(model))
    return draw(seldom_damaged(model.SerializeToString()))
