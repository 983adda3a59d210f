"""Does the file compute what was trained? Masks of PyTorch and ONNX Runtime, pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cxrseg.runtime.labels import PROTOCOLS, label_named
from cxrseg.runtime.postprocess import enlarge, label_mask
from cxrseg.runtime.preprocess import Preprocessing, preprocess
from cxrseg.runtime.session import IDLE_OPTIMIZERS

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""float32 [1, 1, S, S] -> logits float32 [C, S / 4, S / 4]."""


LEAST_LUNG = 0.01
"""Share of the image that counts as a lung found."""


@dataclass(frozen=True)
class Agreement:
    """Share of pixels with the same label, over images.

    Attributes:
        mean: Over all images.
        worst: Of the worst image.
        images: Number of images.
        with_lungs: Number of images on which the second runner's masks hold a lung: two empty
            masks agree and prove nothing.
    """

    mean: float
    worst: float
    images: int
    with_lungs: int


def synthetic_radiographs(count: int, seed: int = 0) -> list[NDArray[np.float32]]:
    """Draw simple chests, for a verification without patient data.

    Two dark lungs beside a bright middle, with ribs, gradients and noise; not for training.

    Returns:
        float32 [256, 256] images in [0, 1].
    """
    rng = np.random.default_rng(seed)
    side = 256
    y, x = np.mgrid[:side, :side] / side
    images = []
    for _ in range(count):
        image = 0.7 + 0.2 * rng.normal() * (y - 0.5) + 0.05 * np.sin(40 * y + 6 * np.abs(x - 0.5))
        for middle in (0.3, 0.7):
            cx, cy = middle + 0.02 * rng.normal(), 0.45 + 0.03 * rng.normal()
            width, height = rng.uniform(0.12, 0.17), rng.uniform(0.26, 0.34)
            inside = ((x - cx) / width) ** 2 + ((y - cy) / height) ** 2
            image -= 0.45 / (1 + np.exp(12 * (inside - 1)))
        noise = cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), 2)
        image += rng.uniform(0.02, 0.06) * noise
        images.append(np.clip(image, 0, 1).astype(np.float32))
    return images


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


def onnx_runner(model: bytes | Path, optimized: bool) -> Run:
    """Return a function that runs a model on the CPU, with or without graph optimization.

    Args:
        model: Path of an exported model, or its bytes where they are all of it.
        optimized: Whether ONNX Runtime optimizes the graph.
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
        return np.asarray(session.run(None, {"image": batch})[0][0], dtype=np.float32)

    return run


def torch_runner(network: torch.nn.Module) -> Run:
    """Return a function that runs a network in PyTorch."""

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            return np.asarray(network(torch.from_numpy(batch))[0].numpy(), dtype=np.float32)

    return run


def masks_of(
    logits: NDArray[np.float32], labels: Sequence[str], size: int
) -> list[NDArray[np.uint8]]:
    """Return a label mask of `size` for each protocol among the labels, as the runtime makes it."""
    masks = []
    known = [label_named(name) for name in labels]
    for protocol in PROTOCOLS:
        channels = [i for i, label in enumerate(known) if label.protocol == protocol]
        if channels:
            planes = [enlarge(logits[i], (size, size)) for i in channels]
            masks.append(label_mask(planes, [known[i] for i in channels]))
    return masks


def compare(
    first: Run,
    second: Run,
    radiographs: Sequence[NDArray[np.float32]],
    spec: Preprocessing,
    labels: Sequence[str],
) -> Agreement:
    """Compare the masks of two runners.

    Args:
        first: One runner.
        second: The other.
        radiographs: float32 [H, W] images, at least one.
        spec: The input contract.
        labels: Channel names.
    """
    shares, with_lungs = [], 0
    for pixels in radiographs:
        batch = preprocess(pixels, spec)[None, None]
        found = masks_of(first(batch), labels, spec.size)
        expected = masks_of(second(batch), labels, spec.size)
        pairs = zip(found, expected, strict=True)
        shares.append(float(np.mean([np.mean(a == b) for a, b in pairs])))
        with_lungs += all(np.mean(mask > 0) >= LEAST_LUNG for mask in expected)
    return Agreement(float(np.mean(shares)), float(np.min(shares)), len(shares), with_lungs)
