"""Shapes are followed as ONNX itself infers them, and an impossible one is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cxrseg.runtime.inference.bounds import follow
from cxrseg.runtime.inference.loading import load_model
from cxrseg.runtime.inference.onnx_graph import read_graph
from cxrseg.runtime.inference.shapes import RULES
from cxrseg.runtime.models import default_model

IMAGE = (1, 4, 12, 10)

Case = tuple[str, dict[str, Any], list[Any]]
"""Operator, attributes, and its inputs after the image: the values of stored constants."""


def floats(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def numbers(*values: int) -> Any:
    return np.array(values, np.int64)


FOUR = numbers(0, 1, 2, 3)

CASES: list[Case] = [
    ("Add", {}, [floats(4, 1, 10)]),
    ("Sub", {}, [floats(3, 1, 1, 1, 1)]),
    ("Mul", {}, [floats()]),
    ("Relu", {}, []),
    ("Softmax", {"axis": -1}, []),
    ("Cast", {"to": TensorProto.FLOAT16}, []),
    ("LayerNormalization", {}, [floats(10), floats(10)]),
    ("QuantizeLinear", {}, [floats(), np.array(0, np.uint8)]),
    ("Clip", {}, [floats(), floats()]),
    ("MatMul", {}, [floats(10, 7)]),
    ("MatMul", {}, [floats(3, 1, 10, 7)]),
    ("Conv", {}, [floats(8, 4, 3, 3)]),
    ("Conv", {"pads": [1, 2, 3, 0], "strides": [2, 3]}, [floats(8, 4, 3, 3), floats(8)]),
    ("Conv", {"dilations": [2, 2], "group": 2}, [floats(6, 2, 3, 2)]),
    ("ConvTranspose", {}, [floats(4, 6, 2, 2)]),
    ("ConvTranspose", {"strides": [2, 2], "pads": [1, 1, 1, 1]}, [floats(4, 6, 3, 3)]),
    (
        "ConvTranspose",
        {"strides": [2, 3], "output_padding": [1, 2], "group": 2, "dilations": [2, 1]},
        [floats(4, 3, 3, 3)],
    ),
    ("AveragePool", {"kernel_shape": [4, 4], "strides": [4, 4]}, []),
    ("MaxPool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}, []),
    ("GlobalAveragePool", {}, []),
    ("Reshape", {}, [numbers(0, 2, -1, 5)]),
    ("Reshape", {}, [numbers(480)]),
    ("Expand", {}, [numbers(7, 1, 4, 1, 1)]),
    ("Transpose", {"perm": [0, 2, 3, 1]}, []),
    ("Transpose", {}, []),
    ("Concat", {"axis": 1}, [floats(1, 3, 12, 10)]),
    ("Concat", {"axis": -1}, [floats(1, 4, 12, 1)]),
    ("Slice", {}, [numbers(1, 0), numbers(9, 2), numbers(2, -1), numbers(2, 1)]),
    ("Slice", {}, [numbers(0, -3), numbers(1, 2**40)]),
    ("Slice", {}, [numbers(-1), numbers(-(2**62)), numbers(2), numbers(-1)]),
    ("Gather", {"axis": 2}, [numbers(1, 2, 3)]),
    ("Gather", {"axis": -1}, [np.array([[1, 2], [3, 4]], np.int64)]),
    ("Gather", {"axis": 1}, [np.array(2, np.int64)]),
    ("Unsqueeze", {}, [numbers(0, -1)]),
    ("Pad", {}, [numbers(0, 0, 1, 2, 0, 0, 3, 4)]),
    ("ReduceMax", {"keepdims": 1}, [numbers(-1)]),
    ("ReduceMean", {"keepdims": 0}, [numbers(1, 2)]),
    ("ReduceMax", {"keepdims": 0}, []),
    ("Resize", {"mode": "nearest"}, [None, np.array([1, 1, 2, 2.5], np.float32)]),
    ("Resize", {"mode": "linear"}, [None, None, numbers(1, 4, 6, 30)]),
    ("ScatterElements", {"axis": 3}, [np.zeros((1, 1, 1, 1), np.int64), floats(1, 1, 1, 1)]),
]


def model_of(case: Case) -> onnx.ModelProto:
    operator, attributes, constants = case
    named = {f"c{n}": value for n, value in enumerate(constants) if value is not None}
    inputs = [f"c{n}" if f"c{n}" in named else "" for n in range(len(constants))]
    graph = helper.make_graph(
        [helper.make_node(operator, ["image", *inputs], ["out"], **attributes)],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, IMAGE)],
        [helper.make_empty_tensor_value_info("out")],
        [numpy_helper.from_array(value, name) for name, value in named.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def followed(model: onnx.ModelProto) -> tuple[int, ...]:
    ((_, shape),) = follow(read_graph(model.SerializeToString()), IMAGE)
    return shape


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]} {n}" for n, case in enumerate(CASES)])
def test_shape_is_that_of_onnx(case: Case) -> None:
    model = model_of(case)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    dimensions = inferred.graph.output[0].type.tensor_type.shape.dim
    assert followed(model) == tuple(dimension.dim_value for dimension in dimensions)


@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_product_of_matrices(transposed: tuple[int, int]) -> None:
    left, right = floats(3, 5), floats(5, 7)
    first, second = transposed
    model = model_of(("Add", {}, [left.T if first else left, right.T if second else right]))
    model.graph.node[0].CopyFrom(
        helper.make_node("Gemm", ["c0", "c1"], ["out"], transA=first, transB=second)
    )
    assert followed(model) == (3, 7)


BAD: list[Case] = [
    ("Add", {}, [floats(3, 10)]),
    ("MatMul", {}, [floats(9, 7)]),
    ("MatMul", {}, [floats(10)]),
    ("Gemm", {}, [floats(10, 7)]),
    ("Conv", {}, [floats(8, 3, 3, 3)]),
    ("Conv", {}, [floats(8, 4, 3)]),
    ("Conv", {"strides": [0, 0]}, [floats(8, 4, 3, 3)]),
    ("Conv", {"strides": [1]}, [floats(8, 4, 3, 3)]),
    ("Conv", {"pads": [-1, 0, 0, 0]}, [floats(8, 4, 3, 3)]),
    ("Conv", {"auto_pad": "SAME_UPPER"}, [floats(8, 4, 3, 3)]),
    ("Conv", {}, [floats(8, 4, 30, 30)]),
    ("ConvTranspose", {"output_shape": [9999, 9999]}, [floats(4, 6, 2, 2)]),
    ("AveragePool", {}, []),
    ("AveragePool", {"kernel_shape": [3, 3], "ceil_mode": 1}, []),
    ("Reshape", {}, [numbers(7, -1)]),
    ("Reshape", {}, [numbers(-1, -1)]),
    ("Reshape", {}, [numbers(0, 0, 0, 0, 0, 0)]),
    ("Reshape", {}, [numbers(-480)]),
    ("Expand", {}, [numbers(3, 1, 1)]),
    ("Expand", {}, [floats(4)]),
    ("ConstantOfShape", {}, []),
    ("Transpose", {"perm": [0, 1, 1, 3]}, []),
    ("Concat", {"axis": 1}, [floats(1, 4, 12, 9)]),
    ("Concat", {"axis": 7}, [floats(*IMAGE)]),
    ("Slice", {}, [numbers(0), numbers(1), numbers(4)]),
    ("Slice", {}, [numbers(0), numbers(1), numbers(0), numbers(0)]),
    ("Slice", {}, [numbers(0, 0), numbers(1)]),
    ("Gather", {"axis": 4}, [numbers(0)]),
    ("Unsqueeze", {}, [numbers(0, 0)]),
    ("Unsqueeze", {}, [numbers(*range(5))]),
    ("Pad", {}, [numbers(1, 1)]),
    ("Pad", {}, [numbers(*[-9] * 8)]),
    ("ReduceMax", {}, [numbers(9)]),
    ("Resize", {}, []),
    ("Resize", {}, [None, np.array([1, 1, np.inf, 1], np.float32)]),
    ("Resize", {}, [None, np.array([1, 1, np.nan, 1], np.float32)]),
    ("Resize", {"axes": [2, 3]}, [None, None, numbers(6, 30)]),
    ("Pad", {"mode": "wrap"}, [numbers(*[0] * 8)]),
    ("ScatterElements", {"reduction": "add"}, [numbers(0).reshape(1, 1, 1, 1), floats(1, 1, 1, 1)]),
    ("Div", {}, [numbers(-1)]),
    ("Pow", {}, [np.array(2, np.int32)]),
    ("Cast", {"to": TensorProto.INT32}, []),
    ("QuantizeLinear", {}, [floats(), np.array(0, np.int32)]),
]


@pytest.mark.parametrize("case", BAD, ids=[f"{case[0]} {n}" for n, case in enumerate(BAD)])
def test_impossible_step_is_refused(case: Case) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        followed(model_of(case))


def test_every_rule_is_tried() -> None:
    tried = {case[0] for case in CASES} | {"Gemm"}
    same = {name for name, rule in RULES.items() if rule in (RULES["Relu"], RULES["Add"])}
    assert set(RULES) - same - tried == {"ConstantOfShape"}


def test_shapes_of_the_shipped_model_are_those_of_onnx() -> None:
    inferred = onnx.shape_inference.infer_shapes(
        onnx.load(default_model()), strict_mode=True, data_prop=True
    )
    told = {
        value.name: tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
        for value in (*inferred.graph.value_info, *inferred.graph.output)
    }
    graph = read_graph(default_model().read_bytes())
    size = load_model(default_model(), "cpu").card.preprocessing.size
    found = {step.node.output: shape for step, shape in follow(graph, (1, 1, size, size))}
    assert len(found) == len(graph.nodes) and found == told
