"""The layers of an INT8 file and of the FP32 file of the same network, in pairs.

They are matched by name: INT8 products carry their layer's, and FP32 products that of their weight
or their bias. An attention's two products have no weights; they stand before and behind a Softmax,
in the order of the attentions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cxrseg.export.graph.passes import constant, dequantized
from cxrseg.runtime.core.errors import CxrsegError

PRODUCTS = ("Gemm", "MatMul", "Conv")

_USE = "give the FP32 export, or the checkpoint, that the INT8 file was made from"

Float = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Weights:
    """The weight of a layer in both files.

    Attributes:
        exact: Of the FP32 file, float32 [out, in].
        rounded: Of the INT8 file times its scale, float32 [out, in].
        step: Scale of each output channel, float32 [out].
    """

    exact: Float
    rounded: Float
    step: Float


@dataclass(frozen=True, eq=False)
class LayerPair:
    """A product that runs in integers, in both files.

    Attributes:
        name: Name of the layer, or of one of an attention's products.
        outputs: Name of the layer's output, bias added, in the FP32 and in the INT8 graph.
        weights: Its weight; None for a product of activations.
    """

    name: str
    outputs: tuple[str, str]
    weights: Weights | None = None


def pair_layers(reference: ir.Model, integer: ir.Model, path: Path) -> list[LayerPair]:
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
    exact = _attention_products(reference) | _products_with_weights(reference)
    matches = [(exact.get(str(node.name)), node) for node in products]
    pairs = [_pair(node, match, path) for match, node in matches if match is not None]
    if 2 * len(pairs) < len(products):
        cause = f"of {len(products)} INT8 layers the FP32 model has {len(pairs)}"
        raise CxrsegError(path, f"is of another network: {cause}", _USE)
    return pairs


def _is_integer(node: ir.Node) -> bool:
    return node.op_type in PRODUCTS and all(dequantized(v) is not None for v in node.inputs[:2])


def _attention_products(model: ir.Model) -> dict[str, ir.Node]:
    """Return name -> product of two activations, as in `cxrseg.trainer.adapt.layer_table`.

    The encoder's attentions come before the decoder's, whose names no INT8 layer has.
    """
    products: dict[str, ir.Node | None] = {}
    softmaxes = (node for node in model.graph if node.op_type == "Softmax")
    for block, softmax in enumerate(softmaxes):
        name, scores = f"image_encoder.blocks.{block}.attn.matmul", softmax.inputs[0]
        users = [user for user, _ in softmax.outputs[0].uses()]
        products[f"{name}.scores"] = scores.producer() if scores is not None else None
        products[f"{name}.mix"] = users[0] if users else None
    return {n: node for n, node in products.items() if node and node.op_type in PRODUCTS}


def _products_with_weights(model: ir.Model) -> dict[str, ir.Node]:
    """Return name -> product with a constant, as far as its weight or bias tells the name."""
    products: dict[str, ir.Node] = {}
    for node in model.graph:
        if node.op_type in PRODUCTS:
            bias = _bias(node)
            for value in (*node.inputs[1:], *(bias.inputs if bias is not None else ())):
                name = str(value.name) if value is not None and value.is_initializer() else ""
                if name.endswith((".weight", ".bias")):
                    products.setdefault(name.rpartition(".")[0], node)
    return products


def _pair(integer: ir.Node, exact: ir.Node, path: Path) -> LayerPair:
    name = str(integer.name)
    result = (_bias(exact) or exact).outputs[0]
    outputs = (str(result.name), str(integer.outputs[0].name))
    source = dequantized(integer.inputs[1])
    stored, scale = (constant(value) for value in source.inputs[:2])
    if stored is None:
        return LayerPair(name, outputs)
    weight = _weight(exact)
    if weight is None or weight.shape != stored.shape or scale is None:
        shape = None if weight is None else list(weight.shape)
        cause = f"is of another network: {name} is {list(stored.shape)}, in the FP32 model {shape}"
        raise CxrsegError(path, cause, _USE)
    channels = len(stored)
    step = np.broadcast_to(np.asarray(scale, np.float32).reshape(-1), channels)
    rounded = stored.astype(np.float32).reshape(channels, -1) * step[:, None]
    return LayerPair(name, outputs, Weights(weight.reshape(channels, -1), rounded, step))


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
    return users[0] if any(array is not None and array.ndim == 1 for array in added) else None
