"""Single products of matrices, in FP32 and in INT8, as small ONNX models."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from cxrseg.export.verify.operators import optimized_graph
from cxrseg.runtime.inference.session import open_session

Kind = Literal["FP32", "INT8"]
Shape = tuple[int, int, int]

KINDS: tuple[Kind, ...] = ("FP32", "INT8")

LIMIT = 63
"""Largest weight of the integer products, as in our files: exact on every CPU."""

_MODEL = """
<ir_version: 10, opset_import: ["" : 20]>
product ({port}[{rows}, {depth}] x) => ({port}[{rows}, {columns}] y) {{{nodes}}}
"""

_NODES: dict[Kind, str] = {
    "FP32": "y = Gemm <transB = 1> (x, weight, bias)",
    "INT8": """
        real = DequantizeLinear (x, scale, zero)
        real_weight = DequantizeLinear <axis = 0> (weight, weight_scale, weight_zero)
        real_bias = DequantizeLinear <axis = 0> (bias, bias_scale)
        product = Gemm <transB = 1> (real, real_weight, real_bias)
        y = QuantizeLinear (product, output_scale, zero)
    """,
}

_PORTS: dict[Kind, str] = {"FP32": "float", "INT8": "uint8"}


@dataclass(frozen=True, eq=False)
class Product:
    """A single product that is ready to be timed.

    Attributes:
        kind: Type of its operands.
        shape: Rows, depth and columns.
        operator: What ONNX Runtime runs it as.
        session: The `onnxruntime.InferenceSession`.
        input: Its input.
    """

    kind: Kind
    shape: Shape
    operator: str
    session: Any
    input: NDArray[np.generic]

    def run(self) -> object:
        """Multiply once."""
        return self.session.run(None, {"x": self.input})


def open_product(kind: Kind, shape: Shape, threads: int, seed: int) -> Product:
    """Open a product with the runtime's options.

    Args:
        kind: Type of its operands.
        shape: Rows, depth and columns.
        threads: CPU threads.
        seed: Seed of weights and input.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "product.onnx")
        path.write_bytes(gemm(kind, shape, seed))
        session = open_session(path, "cpu", threads)[1]
        # One operator where all is well.
        operators = sorted({node.op_type for node in optimized_graph(path).node})
    return Product(kind, shape, ", ".join(operators), session, gemm_input(kind, shape, seed))


def gemm(kind: Kind, shape: Shape, seed: int = 0) -> bytes:
    """Return an ONNX file of one product by constant weights, with a bias: x -> y.

    Args:
        kind: ``INT8`` takes and gives uint8, its weights int8 per column.
        shape: Rows, depth and columns.
        seed: Seed of the weights.
    """
    rows, depth, columns = shape
    text = _MODEL.format(
        port=_PORTS[kind], rows=rows, depth=depth, columns=columns, nodes=_NODES[kind]
    )
    model = onnx.parser.parse_model(text)
    constants = _constants(kind, depth, columns, np.random.default_rng(seed))
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()
    )
    return bytes(model.SerializeToString())


def gemm_input(kind: Kind, shape: Shape, seed: int = 0) -> NDArray[np.generic]:
    """Return random values for the input of `gemm`: [rows, depth]."""
    rng = np.random.default_rng(seed)
    if kind == "FP32":
        return rng.standard_normal(shape[:2], np.float32)
    return rng.integers(0, 256, shape[:2], np.uint8)


def _constants(
    kind: Kind, depth: int, columns: int, rng: np.random.Generator
) -> dict[str, NDArray[np.generic] | np.generic]:
    if kind == "FP32":
        weight = rng.standard_normal((columns, depth), np.float32)
        return {"weight": weight, "bias": np.zeros(columns, np.float32)}
    scale = np.float32(1 / 255)
    return {
        "scale": scale,
        "zero": np.uint8(128),
        "weight": rng.integers(-LIMIT, LIMIT + 1, (columns, depth), np.int8),
        "weight_scale": np.full(columns, 1 / LIMIT, np.float32),
        "weight_zero": np.zeros(columns, np.int8),
        "bias": np.zeros(columns, np.int32),
        "bias_scale": np.full(columns, scale / LIMIT, np.float32),
        # The sums of random values fill the range.
        "output_scale": np.float32(depth**0.5 / 255),
    }
