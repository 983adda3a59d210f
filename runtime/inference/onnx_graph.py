"""The graph in an ONNX file, read as plainly as ``cxrseg-export`` writes it, or refused.

Whatever else ONNX allows is refused by the number of its field (onnx.proto), before ONNX Runtime
sees the file: weights in other files or at an address in memory, functions, graphs within nodes
(``If``, ``Loop``, ``Scan``), sparse constants, operators that are not ONNX's own. A field that
stands twice is refused as well, since readers differ in which one counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from cxrseg.runtime.inference.protobuf import (
    Message,
    integer,
    integers,
    messages,
    read_message,
    text,
    texts,
)

Shape = tuple[int, ...]

MAX_NODES = 20_000
MAX_CONSTANTS = 20_000
"""Most nodes and stored constants of a graph; that of vit_h has about 4,000 nodes."""

ITEM_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2}
"""Types of the constants that are stored -> bytes of an element: float32, uint8, int8, int32,
int64, bool, float16, by their numbers in ONNX's ``TensorProto.DataType``."""

FLOAT, INT64 = 1, 7

MAX_NODE_BYTES = 4_000_000
"""Most bytes of all nodes together; those of vit_h have a seventh of that."""

MAX_RANK = 8
"""Most dimensions of a constant."""


@dataclass(frozen=True)
class _Kind:
    """What a message may hold: fields that may stand several times, and once, and how many."""

    many: frozenset[int]
    one: frozenset[int]
    most: int = 64


def _kind(many: Iterable[int], one: Iterable[int], most: int = 64) -> _Kind:
    return _Kind(frozenset(many), frozenset(one), most)


_KINDS = {
    "model": _kind({8, 14}, {1, 2, 3, 4, 5, 6, 7}),
    "graph": _kind({1, 5, 11, 12, 13, 16}, {2, 10}, 3 * MAX_NODES),
    "node": _kind({1, 2, 5, 9}, {3, 4, 6, 7}),
    "attribute": _kind({7, 8}, {1, 2, 3, 4, 13, 20}),
    "constant": _kind({1, 16}, {2, 8, 9, 12, 14}),
    "operator set": _kind((), {1, 2}),
    "port": _kind({4}, {1, 2, 3}),
    "type": _kind((), {1, 6}),
    "tensor type": _kind((), {1, 2}),
    "shape": _kind({1}, ()),
    "dimension": _kind((), {1, 2, 3}),
}

# Types of attributes -> the field of their integers; floats are of no account here.
_ATTRIBUTES = {1: 0, 2: 3, 3: 0, 6: 0, 7: 8}
_TEXT = 3

# The fields that files of others do hold, and what they are called.
_KNOWN = {
    ("model", 20): "training steps",
    ("model", 25): "functions",
    ("graph", 15): "sparse constants",
    ("node", 8): "calls of overloaded functions",
    ("attribute", 5): "constants in a node",
    ("attribute", 6): "a graph in a node (If, Loop, Scan)",
    ("attribute", 10): "constants in a node",
    ("attribute", 11): "graphs in a node (If, Loop, Scan)",
    ("attribute", 21): "parameters of a function",
    ("constant", 3): "a constant in parts",
    ("constant", 13): "weights outside the file",
}


@dataclass(frozen=True)
class Port:
    """An input or output of the graph.

    Attributes:
        name: Its name.
        kind: Number of its element type, 1 for float32.
        shape: Its dimensions; a name, empty or not, where one is free.
    """

    name: str
    kind: int
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Constant:
    """A stored constant.

    Attributes:
        kind: Number of its element type.
        shape: Its dimensions.
        content: Its elements, little-endian, in C order.
    """

    kind: int
    shape: Shape
    content: memoryview


@dataclass(frozen=True)
class Node:
    """A step of the graph.

    Attributes:
        operator: Of ONNX's own operators.
        inputs: Names of what comes in; empty where an optional one is left out.
        output: Name of what goes out.
        integers: Attributes that are integers.
        texts: Attributes that are text.
    """

    operator: str
    inputs: tuple[str, ...]
    output: str
    integers: dict[str, Shape]
    texts: dict[str, str]


@dataclass(frozen=True)
class Graph:
    """The graph of a file.

    Attributes:
        nodes: In the order in which they are computed.
        constants: Name -> stored constant.
        inputs: What comes in.
        outputs: What goes out.
    """

    nodes: tuple[Node, ...]
    constants: dict[str, Constant]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def read_graph(data: bytes) -> Graph:
    """Read the graph of an ONNX file.

    Args:
        data: The file. The constants refer to it.

    Raises:
        ValueError: It is no ONNX file, or holds what ``cxrseg-export`` does not write. The message
            goes with "is ... : it has".
    """
    model = _checked(memoryview(data), "model")
    for entry in messages(model, 8):
        domain = text(_checked(entry, "operator set"), 1)
        if domain not in ("", "ai.onnx"):
            raise ValueError(f"operators that are not ONNX's own ({domain!r})")
    (content,) = messages(model, 7) or [memoryview(b"")]
    graph = _checked(content, "graph")
    nodes, constants = messages(graph, 1), messages(graph, 5)
    if len(nodes) > MAX_NODES or len(constants) > MAX_CONSTANTS:
        raise ValueError(f"{len(nodes)} nodes and {len(constants)} constants, too many for a model")
    if sum(map(len, nodes)) > MAX_NODE_BYTES:
        raise ValueError("nodes that are too large for a model")
    stored: dict[str, Constant] = {}
    for entry in constants:
        name, constant = _constant(entry)
        if name in stored:
            raise ValueError(f"two constants of the name {name!r}")
        stored[name] = constant
    return Graph(
        tuple(_node(entry) for entry in nodes),
        stored,
        tuple(_port(entry) for entry in messages(graph, 11)),
        tuple(_port(entry) for entry in messages(graph, 12)),
    )


def _constant(data: memoryview) -> tuple[str, Constant]:
    fields = _checked(data, "constant")
    name, kind, shape = text(fields, 8), integer(fields, 2), tuple(integers(fields.get(1, [])))
    if integer(fields, 14) != 0:
        raise ValueError("weights outside the file")
    if kind not in ITEM_BYTES:
        raise ValueError(f"a constant of a type that no model needs ({kind})")
    content = next(iter(messages(fields, 9)), memoryview(b""))
    if len(shape) > MAX_RANK or min(shape, default=0) < 0:
        raise ValueError(f"a constant {name!r} whose dimensions are impossible")
    if prod(shape) * ITEM_BYTES[kind] != len(content):
        raise ValueError(f"a constant {name!r} of {list(shape)} elements in {len(content)} bytes")
    return name, Constant(kind, shape, content)


def _node(data: memoryview) -> Node:
    fields = _checked(data, "node")
    operator, domain = text(fields, 4), text(fields, 7)
    if domain not in ("", "ai.onnx"):
        raise ValueError(f"an operator that is not ONNX's own ({f'{domain}.{operator}'!r})")
    outputs = texts(fields, 2)
    if len(outputs) != 1:
        raise ValueError(f"{operator!r} with {len(outputs)} outputs")
    numbers: dict[str, Shape] = {}
    words: dict[str, str] = {}
    for entry in messages(fields, 5):
        attribute = _checked(entry, "attribute")
        name = text(attribute, 1)
        if name in numbers or name in words:
            raise ValueError(f"{operator!r} with {name!r} twice")
        kind = integer(attribute, 20)
        if kind not in _ATTRIBUTES:
            raise ValueError(f"{operator!r} with {name!r} of a type that is not written")
        # Its type tells which of its fields counts.
        if kind == _TEXT:
            words[name] = text(attribute, 4)
        else:
            numbers[name] = tuple(integers(attribute.get(_ATTRIBUTES[kind], [])))
    return Node(operator, tuple(texts(fields, 1)), outputs[0], numbers, words)


def _port(data: memoryview) -> Port:
    fields = _checked(data, "port")
    shape: list[int | str] = []
    kind = 0
    for entry in messages(fields, 2):
        for tensor in messages(_checked(entry, "type"), 1):
            about = _checked(tensor, "tensor type")
            kind = integer(about, 1)
            for dimensions in messages(about, 2):
                for dimension in messages(_checked(dimensions, "shape"), 1):
                    size = _checked(dimension, "dimension")
                    shape.append(integer(size, 1) if 1 in size else text(size, 2))
    return Port(text(fields, 1), kind, tuple(shape))


def _checked(data: memoryview, what: str) -> Message:
    """Read a message and refuse fields that do not belong in it."""
    kind = _KINDS[what]
    fields = read_message(data, kind.most)
    for number, values in fields.items():
        if number not in kind.many and number not in kind.one:
            raise ValueError(
                _KNOWN.get((what, number), f"a {what} with an unknown part ({number})")
            )
        if number in kind.one and len(values) > 1:
            raise ValueError(f"a {what} with two values for one ({number})")
    return fields
