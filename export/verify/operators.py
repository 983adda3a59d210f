"""What ONNX Runtime really executes: the operators of its optimized graph, layer by layer."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime

from cxrseg.runtime.inference.session import IDLE_OPTIMIZERS

INTEGER_OPS = ("QGemm", "QLinearConv", "QLinearMatMul", "MatMulIntegerToFloat", "MatMulInteger")
"""Operators of ONNX Runtime that multiply in integers."""


@dataclass(frozen=True)
class Coverage:
    """The operators of an optimized graph.

    Attributes:
        operators: Operator -> number of nodes.
        executed: Product that runs in integers -> its operator.
        fallen_back: Products meant to be integer that run in float.
    """

    operators: dict[str, int]
    executed: dict[str, str]
    fallen_back: tuple[str, ...]


def optimized_graph(model: bytes | Path) -> onnx.GraphProto:
    """Return the graph that ONNX Runtime's CPU provider makes of a model, without its weights.

    Args:
        model: Path of an exported model, in whose folder there must be room for another of its
            size for a moment; or its bytes where they are all of it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # The graph comes as a file only; in one with its weights it may exceed what protobuf holds.
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", "optimized.data"
    )
    beside = model.parent if isinstance(model, Path) else None
    with tempfile.TemporaryDirectory(dir=beside) as folder:
        path = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(
            model,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(IDLE_OPTIMIZERS),
        )
        return onnx.load(path, load_external_data=False).graph


def operator_coverage(model: bytes | Path, products: Sequence[str]) -> Coverage:
    """Count operators and look up how each product that is meant to be integer is executed.

    Args:
        model: As in `optimized_graph`.
        products: Names of the nodes, from `cxrseg.export.graph.passes.name_products`.
    """
    graph = optimized_graph(model)
    # A layout change appends "_token_" and a number to a node's name.
    operators = {re.sub(r"_token_\d+$", "", node.name): node.op_type for node in graph.node}
    executed = {name: operators.get(name, "") for name in products}
    fallen_back = tuple(name for name, op in executed.items() if op not in INTEGER_OPS)
    counts = Counter(node.op_type for node in graph.node)
    return Coverage(
        dict(counts.most_common()),
        {name: op for name, op in executed.items() if name not in fallen_back},
        fallen_back,
    )
