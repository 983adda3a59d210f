"""Passes over the exported graph, each of which does one thing and says how often."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cxrseg.runtime.core.errors import CxrsegError

SMALL = 256
"""Float constants of fewer elements stay FP32; halving them saves nothing."""


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """Return the array of an initializer, or None for anything else."""
    if value is None or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy())


def _initializer(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    tensor = ir.tensor(np.asarray(array, order="C"), name=name)
    value = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def _axis(node: ir.Node) -> int:
    attribute = node.attributes.get("axis")
    return 1 if attribute is None else attribute.as_int()


def quantize_linear(
    x: NDArray[np.floating], scale: NDArray[np.floating], zero_point: NDArray[np.integer], axis: int
) -> NDArray[np.integer]:
    """Quantize as ONNX QuantizeLinear does: round half to even, add the zero point, saturate."""
    shape = [1] * x.ndim
    if scale.ndim:
        shape[axis] = -1
    limits = np.iinfo(zero_point.dtype)
    shifted = np.rint(x / scale.reshape(shape)) + zero_point.reshape(
        shape if zero_point.ndim else [1] * x.ndim
    )
    return np.asarray(np.clip(shifted, limits.min, limits.max), dtype=zero_point.dtype)


def dequantized(value: ir.Value | None) -> Any:
    """Return the DequantizeLinear that a value comes from, moved at most; None if there is none."""
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in ("Reshape", "Transpose"):
        moved = node.inputs[0]
        node = moved.producer() if moved is not None else None
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def name_products(model: ir.Model) -> list[str]:
    """Name each product of quantized operands after its layer, so that it can be found again.

    A Gemm or Conv takes the layer's name; the two products of an attention are called
    ``<attention>.matmul.scores`` and ``<attention>.matmul.mix``. ONNX Runtime keeps the names.

    Returns:
        The names, in the order of the graph.
    """
    names = []
    for node in model.graph:
        if node.op_type not in ("Gemm", "MatMul", "Conv"):
            continue
        first, second = (dequantized(v) for v in node.inputs[:2])
        if first is None or second is None:
            continue
        scale = str(second.inputs[1].name)
        layer, _, operand = scale.rpartition(".quantizers.")
        if layer:
            node.name = f"{layer}.matmul.{'scores' if operand == 'key.scale' else 'mix'}"
        else:
            node.name = scale.removesuffix(".weight_scale")
        names.append(node.name)
    return names


def fold_weights(model: ir.Model) -> int:
    """Replace QuantizeLinear of a constant by its integer result.

    Returns:
        Number of weights that became integer initializers.
    """
    graph, count = model.graph, 0
    for node in list(graph):
        weight = constant(node.inputs[0]) if node.op_type == "QuantizeLinear" else None
        scale, zero = (constant(v) for v in node.inputs[1:3]) if weight is not None else (None,) * 2
        if weight is None or scale is None or zero is None:
            continue
        name = str(node.inputs[0].name).replace(".layer.", ".")  # type: ignore[union-attr]
        if f"{name}_int8" in graph.initializers:  # the same constant in other steps
            name = str(node.outputs[0].name)
        quantized = quantize_linear(
            weight.astype(np.float32),
            scale.astype(np.float32),
            zero.astype(zero.dtype),
            _axis(node),  # type: ignore[arg-type]
        )
        ir.convenience.replace_all_uses_with(
            node.outputs[0], _initializer(graph, f"{name}_int8", quantized)
        )
        graph.remove(node, safe=True)
        count += 1
    remove_unused(model)
    return count


def shrink_constants(model: ir.Model) -> int:
    """Store constants that repeat along an axis once, behind an Expand.

    The tracer writes them out; ONNX Runtime expands them when it loads the file. Matrices and
    vectors are left alone: they are weights, which must stay constants to be run in integers.

    Returns:
        Number of constants.
    """
    graph, count = model.graph, 0
    for value in list(graph.initializers.values()):
        array = constant(value)
        if array is None or array.ndim < 3 or array.size < SMALL:
            continue
        small = array
        for axis in range(array.ndim):
            first = small.take([0], axis=axis)
            small = first if (small == first).all() else small
        if small.size > array.size // 2:
            continue
        name = str(value.name)
        shape = _initializer(graph, f"{name}_shape", np.array(array.shape, np.int64))
        once = _initializer(graph, f"{name}_once", small)
        expand = ir.node("Expand", [once, shape])
        expand.outputs[0].name = f"{name}_expanded"
        graph.insert_before(graph[0], expand)
        ir.convenience.replace_all_uses_with(value, expand.outputs[0])
        count += 1
    remove_unused(model)
    return count


def fold_biases(model: ir.Model) -> int:
    """Turn float biases of integer Gemm and Conv into int32 with scale x_scale * w_scale.

    ONNX Runtime runs the node in integers only with such a bias; where there is none it is zero.

    Returns:
        Number of biases.

    Raises:
        CxrsegError: A bias is too large for its layer's scales.
    """
    graph, count = model.graph, 0
    for node in list(graph):
        if node.op_type not in ("Gemm", "Conv"):
            continue
        scales = []
        for operand in node.inputs[:2]:
            source = operand.producer() if operand is not None else None
            if source is not None and source.op_type == "DequantizeLinear":
                scales.append(constant(source.inputs[1]))
        if len(scales) != 2 or scales[0] is None or scales[1] is None:
            continue
        scale = np.multiply(scales[0], scales[1], dtype=np.float32).reshape(-1)
        if len(node.inputs) < 3:
            node.resize_inputs(3)
            node.replace_input_with(
                2, _initializer(graph, f"{node.name}.bias", np.zeros(scale.shape, np.float32))
            )
        bias = constant(node.inputs[2])
        if bias is None:
            continue
        steps = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
        name = str(node.inputs[2].name).replace(".layer.", ".")  # type: ignore[union-attr]
        if np.abs(steps).max() > np.iinfo(np.int32).max:
            raise CxrsegError(
                name,
                "does not fit int32 steps of its layer's scales",
                "train longer, or --keep-fp16",
            )
        quantized = steps.astype(np.int32)
        dequantize = ir.node(
            "DequantizeLinear",
            [
                _initializer(graph, f"{name}_int32", quantized),
                _initializer(graph, f"{name}_scale", scale),
            ],
            attributes={"axis": 0},
        )
        dequantize.outputs[0].name = f"{name}_dequantized"
        graph.insert_before(node, dequantize)
        node.replace_input_with(2, dequantize.outputs[0])
        count += 1
    remove_unused(model)
    return count


def store_fp16(model: ir.Model) -> int:
    """Store float constants as FP16 behind a Cast that folds when the model is loaded.

    Scales of quantizers keep FP32: they must match the training to the last bit.

    Returns:
        Number of constants.
    """
    graph, count = model.graph, 0
    for value in list(graph.initializers.values()):
        array = constant(value)
        if array is None or array.dtype != np.float32 or array.size < SMALL:
            continue
        users = [node.op_type for node, _ in value.uses()]
        if any(op in ("QuantizeLinear", "DequantizeLinear") for op in users):
            continue
        if np.abs(array).max() > np.finfo(np.float16).max:
            continue
        name = str(value.name)
        cast = ir.node(
            "Cast",
            [_initializer(graph, f"{name}_fp16", array.astype(np.float16))],
            attributes={"to": int(ir.DataType.FLOAT)},
        )
        cast.outputs[0].name = f"{name}_fp32"
        graph.insert_before(graph[0], cast)
        ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        count += 1
    remove_unused(model)
    return count


def compute_fp16(model: ir.Model) -> int:
    """Compute the products that are not integer in FP16, casting around them.

    Returns:
        Number of nodes.
    """
    graph, count = model.graph, 0
    for node in list(graph):
        if node.op_type not in ("Gemm", "MatMul", "Conv"):
            continue
        sources = [v.producer() if v is not None else None for v in node.inputs]
        if any(s is not None and s.op_type == "DequantizeLinear" for s in sources):
            continue
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            array = constant(value)
            if array is not None:
                half = graph.initializers.get(f"{value.name}_fp16")
                if half is None:
                    half = _initializer(graph, f"{value.name}_fp16", array.astype(np.float16))
            else:
                cast = ir.node("Cast", [value], attributes={"to": int(ir.DataType.FLOAT16)})
                cast.outputs[0].name = f"{node.outputs[0].name}_half{index}"
                graph.insert_before(node, cast)
                half = cast.outputs[0]
            node.replace_input_with(index, half)
        output = node.outputs[0]
        back = ir.node("Cast", [output], attributes={"to": int(ir.DataType.FLOAT)})
        back.outputs[0].name = f"{output.name}_float"
        graph.insert_after(node, back)
        for user, index in list(output.uses()):
            if user is not back:
                user.replace_input_with(index, back.outputs[0])
        output.type = ir.TensorType(ir.DataType.FLOAT16)
        count += 1
    remove_unused(model)
    return count


def remove_unused(model: ir.Model) -> None:
    """Drop nodes and constants that nothing uses."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(model)
