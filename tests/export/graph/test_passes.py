"""The passes over the graph, each on a small graph of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cxrseg.export.graph.passes import (
    compute_fp16,
    fold_biases,
    fold_weights,
    name_products,
    quantize_linear,
    store_fp16,
)

Floats = NDArray[np.float32]


def model_of(
    nodes: list[onnx.NodeProto],
    weights: dict[str, NDArray[Any]],
    shapes: tuple[list[int], list[int]],
    output_type: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shapes[0])],
        [helper.make_tensor_value_info("y", output_type, shapes[1])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, x: Floats) -> NDArray[Any]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": x})[0])


def arrays(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


@settings(max_examples=60, deadline=None)
@given(data=st.data(), signed=st.booleans(), axis=st.sampled_from([None, 0, 1]))
def test_quantize_linear_is_onnx_runtimes(
    data: st.DataObject, signed: bool, axis: int | None
) -> None:
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 6)))
    numbers = st.floats(-300, 300, width=32, allow_subnormal=False)
    x = data.draw(hnp.arrays(np.float32, shape, elements=numbers))
    count: tuple[int, ...] = () if axis is None else (shape[axis],)
    scales = st.floats(2**-10, 4, width=32)
    scale = data.draw(hnp.arrays(np.float32, count, elements=scales))
    kind = np.int8 if signed else np.uint8
    limits = np.iinfo(kind)
    zeros = st.integers(int(limits.min), int(limits.max))
    zero = data.draw(hnp.arrays(kind, count, elements=zeros))
    attributes: Any = {} if axis is None else {"axis": axis}
    model = model_of(
        [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"], **attributes)],
        {"scale": scale, "zero": zero},
        (list(shape), list(shape)),
        TensorProto.INT8 if signed else TensorProto.UINT8,
    )
    found = quantize_linear(x, scale, zero, 1 if axis is None else axis)
    assert found.dtype == kind
    np.testing.assert_array_equal(found, run(model, x))


def test_halves_go_to_the_even_neighbor() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)
    found = quantize_linear(x, np.float32(1) * np.ones((), np.float32), np.zeros((), np.int8), 0)
    assert found.tolist() == [0, 2, 2, 0, -2]


def gemm() -> onnx.ModelProto:
    """Return a Gemm of 4 inputs and 3 outputs as the tracer writes it: weights quantized late."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 4)).astype(np.float32)
    scale = (np.abs(weight).max(1) / 63).astype(np.float32)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
        helper.make_node("QuantizeLinear", ["a.layer.weight", "sw", "zw"], ["wq"], axis=0),
        helper.make_node("DequantizeLinear", ["wq", "sw", "zw"], ["wd"], axis=0),
        helper.make_node("Gemm", ["xd", "wd", "a.layer.bias"], ["y"], transB=1),
    ]
    weights = {
        "sx": np.array(0.02, np.float32),
        "zx": np.array(128, np.uint8),
        "a.layer.weight": weight,
        "sw": scale,
        "zw": np.zeros(3, np.int8),
        "a.layer.bias": rng.normal(size=3).astype(np.float32),
    }
    return model_of(nodes, weights, ([2, 4], [2, 3]))


X = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)


def test_folding_weights_changes_no_number() -> None:
    before = gemm()
    model = ir.from_proto(before)
    assert fold_weights(model) == 1
    after = ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    held = arrays(after)
    assert held["a.weight_int8"].dtype == np.int8
    assert np.abs(held["a.weight_int8"]).max() == 63
    assert "a.layer.weight" not in held
    assert [n.op_type for n in after.graph.node].count("QuantizeLinear") == 1
    np.testing.assert_array_equal(run(after, X), run(before, X))
    assert fold_weights(model) == 0


def test_folding_biases_changes_less_than_half_a_step() -> None:
    before = gemm()
    model = ir.from_proto(before)
    fold_weights(model)
    assert fold_biases(model) == 1
    after = ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    held = arrays(after)
    steps, scale = held["a.bias_int32"], held["a.bias_scale"]
    assert steps.dtype == np.int32
    expected = held["sw"] * np.float32(0.02)
    np.testing.assert_allclose(scale, expected, rtol=1e-6)
    bias = arrays(before)["a.layer.bias"]
    assert (np.abs(steps * scale - bias) <= 0.5001 * scale).all()
    difference = np.abs(run(after, X) - run(before, X))
    assert (difference <= 0.51 * scale + 1e-6).all()
    assert fold_biases(model) == 0


def test_float_layers_keep_their_bias() -> None:
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)]
    weights = {"w": np.ones((3, 4), np.float32), "b": np.ones(3, np.float32)}
    model = ir.from_proto(model_of(nodes, weights, ([2, 4], [2, 3])))
    assert (fold_weights(model), fold_biases(model)) == (0, 0)
    assert arrays(ir.to_proto(model))["b"].dtype == np.float32


def wide(large: float = 1.0) -> onnx.ModelProto:
    rng = np.random.default_rng(2)
    weights = {
        "w": (large * rng.normal(size=(32, 32))).astype(np.float32),
        "b": rng.normal(size=32).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["y"]),
    ]
    return model_of(nodes, weights, ([2, 32], [2, 32]))


WIDE_X = np.random.default_rng(3).normal(size=(2, 32)).astype(np.float32)


def test_large_floats_are_stored_in_half() -> None:
    model = ir.from_proto(wide())
    assert store_fp16(model) == 1
    after = ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    kinds = {name: array.dtype for name, array in arrays(after).items()}
    assert kinds == {"w_fp16": np.dtype(np.float16), "b": np.dtype(np.float32)}
    np.testing.assert_allclose(run(after, WIDE_X), run(wide(), WIDE_X), atol=0.02)


def test_numbers_beyond_half_stay() -> None:
    model = ir.from_proto(wide(1e5))
    assert store_fp16(model) == 0


def test_products_are_computed_in_half() -> None:
    model = ir.from_proto(wide())
    assert compute_fp16(model) == 1
    after = ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    operators = [node.op_type for node in after.graph.node]
    assert operators == ["Cast", "MatMul", "Cast", "Add"]
    assert arrays(after)["w_fp16"].dtype == np.float16
    np.testing.assert_allclose(run(after, WIDE_X), run(wide(), WIDE_X), atol=0.05)
    assert (run(after, WIDE_X) != run(wide(), WIDE_X)).any()


def test_integer_products_stay_integer() -> None:
    model = ir.from_proto(gemm())
    fold_weights(model)
    assert compute_fp16(model) == 0


def test_products_are_named_after_their_layers() -> None:
    proto = gemm()
    for node in proto.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = "a.weight_scale" if name == "sw" else name
    next(t for t in proto.graph.initializer if t.name == "sw").name = "a.weight_scale"
    model = ir.from_proto(proto)
    assert name_products(model) == ["a"]
    assert [n.name for n in model.graph if n.op_type == "Gemm"] == ["a"]
    assert name_products(ir.from_proto(wide())) == []
