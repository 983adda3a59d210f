"""Changes of a sound model file that ONNX allows and ``cxrseg-export`` never makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

Change = Callable[[ModelProto], object]


def changed(data: bytes, change: Change) -> bytes:
    """Return a model file with its contents changed in place."""
    model = onnx.load_from_string(data)
    change(model)
    return bytes(model.SerializeToString())


def constant(name: str, values: Any, kind: Any = np.int64) -> TensorProto:
    return numpy_helper.from_array(np.array(values, kind), name)


def first(model: ModelProto, nodes: Sequence[NodeProto], constants: Sequence[TensorProto]) -> None:
    """Compute something before all else."""
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    model.graph.initializer.extend(constants)


def external(location: str, *, offset: int | None = None) -> Change:
    """Keep the last constant in another file, or at an address in memory."""

    def change(model: ModelProto) -> None:
        weight = model.graph.initializer[-1]
        size = len(weight.raw_data)
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        told = {"location": location, "length": str(size)}
        if offset is not None:
            told["offset"] = str(offset)
        for key, value in told.items():
            weight.external_data.add(key=key, value=value)

    return change


def with_graph(operator: str) -> Change:
    """Add a node that holds a graph."""

    def change(model: ModelProto) -> None:
        inner = helper.make_graph([helper.make_node("Identity", ["gain"], ["x"])], "in", [], [])
        names = ("then_branch", "else_branch") if operator == "If" else ("body",)
        node = helper.make_node(operator, ["yes"], ["y"], **dict.fromkeys(names, inner))
        first(model, [node], [constant("yes", True, bool)])

    return change


def operator(name: str, domain: str = "") -> Change:
    """Add a node of another operator, of ONNX's own or of another domain."""

    def change(model: ModelProto) -> None:
        first(model, [helper.make_node(name, ["image"], ["y"], domain=domain)], [])

    return change


def other_domain(model: ModelProto) -> None:
    model.opset_import.add(domain="com.microsoft", version=1)


def function(model: ModelProto) -> None:
    body = [helper.make_node("Identity", ["a"], ["b"])]
    opset = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("", "F", ["a"], ["b"], body, opset))


def sparse(model: ModelProto) -> None:
    entry = model.graph.sparse_initializer.add(dims=[1 << 20, 1 << 20])
    entry.values.CopyFrom(constant("sparse", [1.0], np.float32))
    entry.indices.CopyFrom(constant("at", [10**12]))


def constant_in_a_node(model: ModelProto) -> None:
    first(model, [helper.make_node("Constant", [], ["y"], value=constant("v", [1]))], [])


def reference_to_a_parameter(model: ModelProto) -> None:
    name = AttributeProto.INT
    model.graph.node[0].attribute.add(name="x", ref_attr_name="y", type=name)


def training(model: ModelProto) -> None:
    model.training_info.add().algorithm.name = "train"


def dimensions(*dims: int) -> Change:
    """Let the last constant have other dimensions than its bytes."""

    def change(model: ModelProto) -> None:
        model.graph.initializer[-1].dims[:] = dims

    return change


def typed(model: ModelProto) -> None:
    """Keep the last constant in another field than all others."""
    weight = model.graph.initializer[-1]
    weight.float_data.extend(numpy_helper.to_array(weight).ravel().tolist())
    weight.ClearField("raw_data")


def text(model: ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("t", TensorProto.STRING, [1], ["a"]))


def many_nodes(model: ModelProto) -> None:
    names = [f"n{number}" for number in range(20_001)]
    first(model, [helper.make_node("Relu", ["image"], [name]) for name in names], [])


def many_constants(model: ModelProto) -> None:
    first(model, [], [constant(f"c{number}", 1) for number in range(20_001)])


def large_nodes(model: ModelProto) -> None:
    first(model, [helper.make_node("Relu", ["image"], ["n"], doc_string="x" * 4_000_001)], [])


def many_inputs(model: ModelProto) -> None:
    first(model, [helper.make_node("Concat", ["image"] * 100, ["n"], axis=1)], [])


def twice(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["image"], ["logits"]))


def constant_twice(model: ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def out_of_order(model: ModelProto) -> None:
    first(model, [helper.make_node("Relu", ["lung"], ["n"])], [])


def attribute_twice(model: ModelProto) -> None:
    model.graph.node[0].attribute.append(model.graph.node[0].attribute[0])


def attribute_of_another_type(model: ModelProto) -> None:
    """Let the window be what one reader takes for it, and no other."""
    model.graph.node[0].attribute[0].type = AttributeProto.FLOAT


def shape_from_the_image(model: ModelProto) -> None:
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["shape"], to=TensorProto.INT64),
        helper.make_node("Expand", ["gain", "shape"], ["n"]),
    ]
    first(model, nodes, [])


def grown(*nodes: NodeProto, **constants: Any) -> Change:
    """Compute something large of small constants, or of the image."""

    def change(model: ModelProto) -> None:
        kinds = {name: np.float32 if name == "column" else np.int64 for name in constants}
        stored = [constant(name, values, kinds[name]) for name, values in constants.items()]
        first(model, nodes, stored)

    return change


def node(operator: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs.split(), [output], **attributes)


def doubled(times: int) -> list[NodeProto]:
    """Return nodes that double a value again and again."""
    return [node("Concat", f"v{n} v{n}", f"v{n + 1}", axis=0) for n in range(times)]


def chain(times: int) -> list[NodeProto]:
    """Return nodes that multiply a matrix by itself again and again."""
    return [node("MatMul", f"v{n} v{n}", f"v{n + 1}") for n in range(times)]


NOT_WRITTEN: dict[str, tuple[Change, str]] = {
    "a file by its path": (external("/etc/passwd"), "weights outside the file"),
    "a file beside it": (external("side.bin"), "weights outside the file"),
    "a file above it": (external("../../side.bin"), "weights outside the file"),
    "an address": (external("*/_ORT_MEM_ADDR_/*", offset=4096), "weights outside the file"),
    "If": (with_graph("If"), "a graph in a node"),
    "Loop": (with_graph("Loop"), "a graph in a node"),
    "Scan": (with_graph("Scan"), "a graph in a node"),
    "a function": (function, "functions"),
    "another domain": (other_domain, "operators that are not ONNX's own"),
    "an operator of another domain": (operator("FusedGemm", "com.microsoft"), "not ONNX's own"),
    "an operator that is not written": (operator("Einsum"), "the operator 'Einsum'"),
    "a random operator": (operator("RandomNormalLike"), "the operator 'RandomNormalLike'"),
    "a sparse constant": (sparse, "sparse constants"),
    "a constant in a node": (constant_in_a_node, "constants in a node"),
    "a parameter": (reference_to_a_parameter, "parameters of a function"),
    "training": (training, "training steps"),
    "huge dimensions": (dimensions(1, 2, 2**31, 2**31), "in 2048 bytes"),
    "small dimensions": (dimensions(1, 2, 16, 15), "in 2048 bytes"),
    "negative dimensions": (dimensions(-1, 2, 16, 16), "impossible"),
    "many dimensions": (dimensions(*[1] * 9, 512), "impossible"),
    "a constant elsewhere": (typed, "unknown part"),
    "text": (text, "unknown part"),
    "many nodes": (many_nodes, "too many"),
    "many constants": (many_constants, "too many"),
    "large nodes": (large_nodes, "too large"),
    "many inputs": (many_inputs, "more than 64 fields"),
    "a value twice": (twice, "two values of the name 'logits'"),
    "a constant twice": (constant_twice, "two constants of the name"),
    "an attribute twice": (attribute_twice, "'kernel_shape' twice"),
    "an attribute of another type": (attribute_of_another_type, "'AveragePool'"),
    "a value before it is there": (out_of_order, "which nothing gives"),
    "a shape from the image": (shape_from_the_image, "'Cast' of types"),
    "a quotient of integers": (grown(node("Div", "c c", "n"), c=[-(2**63)]), "'Div' of types"),
    "a cast to text": (grown(node("Cast", "image", "n", to=8)), "'Cast' of types"),
    "a size by a policy": (
        grown(
            node("Resize", "image gain gain s", "n", keep_aspect_ratio_policy="not_smaller"),
            s=[1, 1, 4, 64],
        ),
        "'keep_aspect_ratio_policy' is 'not_smaller'",
    ),
    "slow functions": (
        grown(
            node("Expand", "image form", "v0"),
            *(node("Erf", f"v{n}", f"v{n + 1}") for n in range(3000)),
            form=[400, 1, 64, 64],
        ),
        "more to compute",
    ),
    "an expanded constant": (
        grown(node("Expand", "gain form", "n"), form=[1 << 32]),
        "constants that grow",
    ),
    "a filled constant": (
        grown(node("ConstantOfShape", "form", "n"), form=[1 << 20, 1 << 20]),
        "constants that grow",
    ),
    "a doubled constant": (grown(*doubled(40), v0=[1, 2]), "constants that grow"),
    "an outer product": (
        grown(
            node("Transpose", "column", "r"), node("MatMul", "column r", "n"), column=[[1]] * 9999
        ),
        "constants that grow",
    ),
    "a padded image": (
        grown(node("Pad", "image pads", "n"), pads=[0] * 6 + [60_000] * 2),
        "more to compute",
    ),
    "an enlarged image": (
        grown(
            node("Resize", "image   sizes".replace("   ", " gain gain "), "n"),
            sizes=[1, 1, 60_000, 60_000],
        ),
        "more to compute",
    ),
    "a slow constant": (
        grown(node("Expand", "gain form", "v0"), *chain(60), form=[1024, 1024]),
        "constants that grow",
    ),
    "a slow image": (
        grown(node("Expand", "image form", "v0"), *chain(999), form=[256, 1, 64, 64]),
        "more to compute",
    ),
    "a large window": (
        grown(node("AveragePool", "image", "n", kernel_shape=[64, 64], pads=[9999] * 4)),
        "more to compute",
    ),
}
"""Name of a change -> the change, and a part of the reason for the refusal."""
