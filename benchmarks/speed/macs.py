"""How many multiplications a model takes, counted from its graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from cxrseg.export.graph.passes import dequantized
from cxrseg.runtime.core.errors import CxrsegError

COUNTED = ("Conv", "Gemm", "MatMul")
"""Operators that are counted; all others of our files take a thousandth of the work, or less."""

UNKNOWN = ("ConvTranspose", "Einsum", "GRU", "LSTM", "RNN", "Attention", "GridSample")
"""Operators that multiply too and are not counted, so that a file with one is refused."""


@dataclass(frozen=True)
class Macs:
    """Multiplications, each with an addition, that one image takes.

    Attributes:
        integer: Of operands that are both quantized.
        floating: Of all others.
    """

    integer: int
    floating: int

    @property
    def total(self) -> int:
        """Both."""
        return self.integer + self.floating


def count_macs(path: Path) -> Macs:
    """Count the multiplications in products of a model, for one image.

    Products of constants are left out: they are computed once, when the file is loaded.

    Args:
        path: ONNX file of fixed image size.

    Raises:
        CxrsegError: A shape is not known, or an operator is not counted.
    """
    model = ir.load(path)
    for value in model.graph.inputs:
        if value.shape is not None and not isinstance(value.shape[0], int):
            value.shape = ir.Shape([1, *list(value.shape)[1:]])
    model = ShapeInferencePass(data_prop=True)(model).model
    integer = floating = 0
    varying = set(model.graph.inputs) - set(model.graph.initializers.values())
    for node in model.graph:
        if node.op_type in UNKNOWN or node.op_type.startswith(("QLinear", "MatMulInteger")):
            cause = f"has an operator whose work is not counted ({node.op_type})"
            raise CxrsegError(path, cause, "leave it out")
        if varying.isdisjoint(node.inputs):
            continue
        varying.update(node.outputs)
        if node.op_type not in COUNTED:
            continue
        count = _macs(node, path)
        if all(dequantized(value) is not None for value in node.inputs[:2]):
            integer += count
        else:
            floating += count
    return Macs(integer, floating)


def _macs(node: ir.Node, path: Path) -> int:
    """Return elements of the output, times the length of the sums that they are."""
    output = math.prod(_shape(node.outputs[0], node, path))
    if node.op_type == "Conv":
        return output * math.prod(_shape(node.inputs[1], node, path)[1:])
    first = _shape(node.inputs[0], node, path)
    transposed = node.op_type == "Gemm" and node.attributes.get("transA")
    return output * (first[0] if transposed and transposed.as_int() else first[-1])


def _shape(value: ir.Value | None, node: ir.Node, path: Path) -> Sequence[int]:
    shape = None if value is None or value.shape is None else list(value.shape)
    if shape is None or not all(isinstance(length, int) for length in shape):
        cause = f"does not tell a shape of its operator {node.name or node.op_type}"
        raise CxrsegError(path, cause, "export it for one size")
    return [int(length) for length in shape]  # type: ignore[arg-type]
