"""How an exported file and a network are run to be compared, and what this CPU's kernels do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cxrseg.export.verify.agreement import Backend
from cxrseg.runtime.inference.running import require_finite
from cxrseg.runtime.inference.session import IDLE_OPTIMIZERS

TRAIN_AGAIN = "train again, with a lower learning rate"


def saturates(limit: int = 127) -> bool:
    """Tell whether this CPU's integer products lose large sums, by multiplying once.

    Without VNNI or dot-product instructions, uint8 x int8 kernels add pairs of products in 16
    bits and saturate silently.

    Args:
        limit: Largest weight of the product that is tried.
    """
    depth, width = 64, 16
    x = np.full((1, depth), 255, np.float32)
    constants: dict[str, NDArray[np.generic]] = {
        "one": np.ones((), np.float32),
        "zero": np.zeros((), np.uint8),
        "weight": np.full((depth, width), limit, np.int8),
        "weight_zero": np.zeros((), np.int8),
        "bias": np.zeros(width, np.int32),
        "bias_zero": np.zeros((), np.int32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["integer"]),
        helper.make_node("DequantizeLinear", ["integer", "one", "zero"], ["float"]),
        helper.make_node("DequantizeLinear", ["weight", "one", "weight_zero"], ["matrix"]),
        helper.make_node("DequantizeLinear", ["bias", "one", "bias_zero"], ["shift"]),
        helper.make_node("Gemm", ["float", "matrix", "shift"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, width])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return bool((session.run(None, {"x": x})[0] != depth * 255 * limit).any())


def onnx_backend(model: bytes | Path, optimized: bool) -> Backend:
    """Return a function that runs a model on the CPU, with or without graph optimization.

    Args:
        model: Path of an exported model, or its bytes where they are all of it.
        optimized: Whether ONNX Runtime optimizes the graph.

    The function raises a CxrsegError where the network gives values that are not numbers.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model,
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=list(IDLE_OPTIMIZERS),
    )

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = np.asarray(session.run(None, {"image": batch})[0][0], dtype=np.float32)
        require_finite(logits, "the exported network", TRAIN_AGAIN)
        return logits

    return run


def torch_backend(network: torch.nn.Module) -> Backend:
    """Return a function that runs a network in PyTorch.

    It raises a CxrsegError where the network gives values that are not numbers.
    """

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            logits = np.asarray(network(torch.from_numpy(batch))[0].numpy(), dtype=np.float32)
        require_finite(logits, "the trained network", TRAIN_AGAIN)
        return logits

    return run
