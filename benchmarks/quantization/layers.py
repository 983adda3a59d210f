"""The layers of an INT8 file beside those of the FP32 file of the same network.

They are found by name: INT8 products carry their layer's, and FP32 products that of their weight or
their bias. An attention's two products have no weights; they stand around a Softmax, one after the
other in the order of the blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cxrseg.export.graph.passes import constant, dequantized
from cxrseg.runtime.core.errors import CxrsegError

PRODUCTS = ("Gemm", "MatMul", "Conv")

FETCHED = 16
"""Outputs of layers that are held at once; those of attention are large."""

LOGITS = "logits"
"""How the last row calls the model's output."""

_USE = "give the FP32 export, or the checkpoint, that the INT8 file was made from"

Float = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Layer:
    """A product that runs in integers, in both files.

    Attributes:
        name: Name of the layer, or of one of an attention's products.
        weight: Weight of the FP32 file, float32 [out, ...]; None for a product of activations.
        rounded: Weight of the INT8 file times its scale, of the same shape; None likewise.
        step: Scale of each output channel, float32 [out]; None likewise.
        limit: Largest integer weight, absolute; 0 for a product of activations.
        outputs: Name of the layer's output, bias added, in the FP32 and in the INT8 graph.
    """

    name: str
    weight: Float | None
    rounded: Float | None
    step: Float | None
    limit: int
    outputs: tuple[str, str]


def pair_layers(reference: ir.Model, integer: ir.Model, path: Path) -> list[Layer]:
    """Find each integer product of an INT8 file in the FP32 file.

    A layer is left out where the FP32 file has computed it: its input is constant.

    Args:
        reference: Model of the FP32 file.
        integer: Model of the INT8 file.
        path: The INT8 file, for messages.

    Returns:
        The layers, in the order of the network, at least one.

    Raises:
        CxrsegError: The files are not of the same network, or nothing runs in integers.
    """
    products = [node for node in integer.graph if _is_integer(node)]
    if not products:
        raise CxrsegError(path, "has no INT8 layer", "give a file of cxrseg-export")
    known = _named(reference)
    pairs = [(known.get(str(node.name)), node) for node in products]
    layers = [_layer(first, second, path) for first, second in pairs if first is not None]
    if 2 * len(layers) < len(products):
        cause = f"of {len(products)} INT8 layers the FP32 model has {len(layers)}"
        raise CxrsegError(path, f"is of another network: {cause}", _USE)
    return layers


def _is_integer(node: ir.Node) -> bool:
    return node.op_type in PRODUCTS and all(dequantized(v) is not None for v in node.inputs[:2])


def _named(model: ir.Model) -> dict[str, ir.Node]:
    """Return the products of an FP32 graph by the names that the INT8 graph gives them."""
    found: dict[str, ir.Node] = {}
    scores, mixes = 0, 0
    for node in model.graph:
        if node.op_type not in PRODUCTS:
            continue
        source = node.inputs[0].producer() if node.inputs[0] is not None else None
        if any(user.op_type == "Softmax" for user, _ in node.outputs[0].uses()):
            found[f"image_encoder.blocks.{scores}.attn.matmul.scores"] = node
            scores += 1
        elif source is not None and source.op_type == "Softmax":
            found[f"image_encoder.blocks.{mixes}.attn.matmul.mix"] = node
            mixes += 1
        elif name := _layer_name(node):
            found[name] = node
    return found


def _layer(reference: ir.Node, integer: ir.Node, path: Path) -> Layer:
    name = str(integer.name)
    outputs = (_result(reference), str(integer.outputs[0].name))
    source = dequantized(integer.inputs[1])
    stored = constant(source.inputs[0])
    if stored is None:
        return Layer(name, None, None, None, 0, outputs)
    weight, scale = _weight(reference), constant(source.inputs[1])
    if weight is None or weight.shape != stored.shape or scale is None:
        shape = None if weight is None else list(weight.shape)
        cause = f"is of another network: {name} is {list(stored.shape)}, in the FP32 model {shape}"
        raise CxrsegError(path, cause, _USE)
    step = np.broadcast_to(np.asarray(scale, np.float32).reshape(-1), len(stored))
    whole = stored.astype(np.float32)
    rounded = whole * step.reshape(-1, *[1] * (whole.ndim - 1))
    return Layer(name, weight, rounded, step, int(np.abs(whole).max()), outputs)


def _weight(node: ir.Node) -> Float | None:
    """Return the constant operand of a float product, output channels first."""
    array = constant(node.inputs[1])
    if array is None:
        return None
    transposed = node.op_type == "Conv" or (
        node.op_type == "Gemm"
        and "transB" in node.attributes
        and node.attributes["transB"].as_int()
    )
    return np.asarray(array if transposed else array.T, np.float32)


def _bias(node: ir.Node) -> ir.Node | None:
    """Return the Add of a bias that follows a MatMul by a constant."""
    if node.op_type != "MatMul" or constant(node.inputs[1]) is None:
        return None
    users = [user for user, _ in node.outputs[0].uses()]
    if len(users) != 1 or users[0].op_type != "Add":
        return None
    added = [constant(value) for value in users[0].inputs]
    return users[0] if any(each is not None and each.ndim == 1 for each in added) else None


def _result(node: ir.Node) -> str:
    return str((_bias(node) or node).outputs[0].name)


def _layer_name(node: ir.Node) -> str:
    """Return a layer's name as far as its weight or bias tells it."""
    bias = _bias(node)
    values = [*node.inputs[1:], *(bias.inputs if bias is not None else ())]
    for value in values:
        name = str(value.name) if value is not None and value.is_initializer() else ""
        for end in (".weight", ".bias"):
            if name.endswith(end):
                return name.removesuffix(end)
    return ""


@dataclass(frozen=True)
class Noise:
    """How far a layer's output in INT8 is from that in FP32, all layers before it in INT8 too.

    Attributes:
        name: The layer, or `LOGITS`.
        signal: Root mean square of the FP32 output.
        noise: Root mean square of the difference.
        sqnr: 10 log10(sum(FP32^2) / sum(difference^2)) in dB, over all images.
    """

    name: str
    signal: float
    noise: float
    sqnr: float


def output_noise(
    reference: ir.Model,
    integer: ir.Model,
    layers: Sequence[Layer],
    batches: Iterable[Float],
    threads: int,
) -> list[Noise]:
    """Run both graphs as they are written, unfused, and compare the output of each layer.

    Args:
        reference: Model of the FP32 file; gets more outputs.
        integer: Model of the INT8 file; gets more outputs.
        layers: From `pair_layers`.
        batches: Images float32 [1, 1, S, S], at least one.
        threads: CPU threads.

    Returns:
        A row per layer, and last that of the logits.
    """
    from cxrseg.trainer.adapt.sensitivity import CAP_DB

    names = [each.outputs for each in layers]
    names.append((str(reference.graph.outputs[0].name), str(integer.graph.outputs[0].name)))
    first = _session(reference, [name for name, _ in names[:-1]], threads)
    second = _session(integer, [name for _, name in names[:-1]], threads)
    sums = np.zeros((len(names), 3))
    for batch in batches:
        for start in range(0, len(names), FETCHED):
            chunk = names[start : start + FETCHED]
            wanted = first.run([name for name, _ in chunk], {"image": batch})
            found = second.run([name for _, name in chunk], {"image": batch})
            for row, (a, b) in enumerate(zip(wanted, found, strict=True), start=start):
                exact = np.asarray(a, np.float64).reshape(-1)
                error = np.asarray(b, np.float64).reshape(-1) - exact
                sums[row] += (exact @ exact, error @ error, exact.size)
    rows = []
    for name, (signal, noise, count) in zip([*(e.name for e in layers), LOGITS], sums, strict=True):
        ratio = 10 * np.log10(max(signal, 1e-30) / noise) if noise else CAP_DB
        rms, rest = (float(np.sqrt(each / count)) for each in (signal, noise))
        rows.append(Noise(name, rms, rest, min(CAP_DB, float(ratio))))
    return rows


def _session(model: ir.Model, outputs: Sequence[str], threads: int) -> Any:
    """Return a session that also gives inner values, so that no layer is fused with the next."""
    import onnxruntime

    values = {str(v.name): v for node in model.graph for v in node.outputs}
    given = {str(value.name) for value in model.graph.outputs}
    for name in dict.fromkeys(outputs):
        if name not in given:
            value = values[name]
            value.type = ir.TensorType(ir.DataType.FLOAT)
            model.graph.outputs.append(value)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
