"""What ONNX Runtime really executes: the operators of its optimized graph, layer by layer."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime

INTEGER_OPS = ("QGemm", "QLinearConv", "QLinearMatMul", "MatMulIntegerToFloat", "MatMulInteger")
"""Operators of ONNX Runtime that multiply in integers."""


@dataclass(frozen=True)
class Census:
    """The operators of an optimized graph.

    Attributes:
        operators: Operator -> number of nodes.
        executed: Layer -> operator that consumes its integer weight; for the two products of an
            attention ``<attention>.matmul.scores`` and ``.matmul.mix``.
        fallen_back: Layers meant to be integer that run in float.
    """

    operators: dict[str, int]
    executed: dict[str, str]
    fallen_back: tuple[str, ...]


def optimized_graph(model: bytes) -> onnx.GraphProto:
    """Return the graph that ONNX Runtime's CPU provider makes of a model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return onnx.load(path).graph


def take_census(model: bytes, layers: Sequence[str], attentions: Sequence[str]) -> Census:
    """Count operators and look up how each layer that is meant to be integer is executed.

    Args:
        model: Bytes of an exported model.
        layers: Names of the layers with int8 weights.
        attentions: Names of the attention blocks whose products are quantized.
    """
    graph = optimized_graph(model)
    users: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node.op_type)
    executed, fallen_back = {}, []
    wanted = {layer: f"{layer}.weight_int8" for layer in layers}
    for attention in attentions:
        # A fused product takes the scale of its operand; a float one leaves it to a
        # DequantizeLinear.
        scale = f"{attention}.quantizers"
        wanted[f"{attention}.matmul.scores"] = f"{scale}.query.scale"
        wanted[f"{attention}.matmul.mix"] = f"{scale}.probability.scale"
    for layer, initializer in wanted.items():
        operators = users.get(initializer, [])
        integer = [op for op in operators if op in INTEGER_OPS]
        if integer and "DequantizeLinear" not in operators:
            executed[layer] = integer[0]
        else:
            fallen_back.append(layer)
    counts = Counter(node.op_type for node in graph.node)
    return Census(dict(counts.most_common()), executed, tuple(fallen_back))
