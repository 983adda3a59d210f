"""What a model would take of memory and time, known before it is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod

from cxrseg.runtime.inference.onnx_graph import MAX_RANK, Graph, Node, Shape
from cxrseg.runtime.inference.shapes import RULES, Step, work
from cxrseg.runtime.inference.signatures import check_attributes, element_type

VALUES_PER_PIXEL = 1200
"""Most numbers that are in memory at once, for each pixel of the network's input; vit_h at 1024
pixels a side needs 800."""

FOLDED_PER_PIXEL = 64
"""Most numbers, besides, that ONNX Runtime computes when it loads the file, since they depend on no
image, and keeps; for each pixel of the input."""

FOLDED_PER_BYTE = 8
"""More of them, for each byte of the stored constants: INT8 weights become floats, some twice."""

STEPS_PER_PIXEL = 500_000
"""Most multiplications, or other steps that take as long, for each pixel of the input; those of
attention, and of layers that use a weight at many places. The small networks take
less than a sixth of it."""

PIXELS_PER_USE = 160
"""More steps, for each byte of the weights: a transformer uses each once per 256 pixels."""

STEPS_PER_BYTE = 256
"""More steps, for each byte of the weights at any size of image: making floats of them."""

MAX_STEPS_PER_PIXEL = 4_000_000
"""Most steps for each pixel, however large the weights; vit_h takes 2.6 million."""


def check_bounds(graph: Graph, size: int, channels: int) -> None:
    """Refuse a graph that would take too much, or ends in another shape than it should.

    Args:
        graph: The graph, of one input and one output.
        size: Side of the input image [1, 1, size, size].
        channels: Channels of the output [1, channels, size / 4, size / 4].

    Raises:
        ValueError: It does. The message tells what the graph has.
    """
    (image,), (output,) = graph.inputs, graph.outputs
    fixed = {"", *graph.constants} - {image.name}
    stored = sum(len(constant.content) for constant in graph.constants.values())
    pixels = size**2
    most_folded = FOLDED_PER_PIXEL * pixels + FOLDED_PER_BYTE * stored
    per_pixel = min(STEPS_PER_PIXEL + stored // PIXELS_PER_USE, MAX_STEPS_PER_PIXEL)
    most_steps = per_pixel * pixels + STEPS_PER_BYTE * stored
    elements: dict[str, int] = {}
    folded = steps = live = 0
    leaves = _last_uses(graph.nodes, output.name)
    found: Shape = ()
    for number, (step, result) in enumerate(follow(graph, (1, 1, size, size))):
        name = step.node.output
        elements[name] = prod(result)
        steps += work(step, result)
        if fixed.issuperset(step.node.inputs):
            fixed.add(name)
            folded += elements[name]
        else:
            live += elements[name]
        if folded > most_folded:
            raise ValueError("constants that grow to more than a model needs")
        if live > VALUES_PER_PIXEL * pixels or steps > most_steps:
            raise ValueError("more to compute than a model needs")
        live -= sum(elements.get(x, 0) for x in leaves.get(number, ()) if x not in fixed)
        if name == output.name:
            found = result
    wanted = (1, channels, size // 4, size // 4)
    if found != wanted:
        raise ValueError(f"an output of {list(found)}, not {list(wanted)}")


def follow(graph: Graph, shape: Shape) -> Iterator[tuple[Step, Shape]]:
    """Give each node with the shapes of its inputs, and the shape that it gives.

    Args:
        graph: The graph, of one input.
        shape: Of the input.

    Raises:
        ValueError: A node is none that a model needs, or does not fit its inputs.
    """
    shapes = {name: constant.shape for name, constant in graph.constants.items()}
    kinds = {name: constant.kind for name, constant in graph.constants.items()}
    shapes[graph.inputs[0].name], kinds[graph.inputs[0].name] = shape, graph.inputs[0].kind
    for node in graph.nodes:
        step = _step(node, graph, shapes)
        if node.output in shapes:
            raise ValueError(f"two values of the name {node.output!r}")
        result = shapes[node.output] = _result(step)
        kinds[node.output] = element_type(
            node, [kinds[name] if name else None for name in node.inputs]
        )
        yield step, result


def _last_uses(nodes: Iterable[Node], output: str) -> dict[int, set[str]]:
    """Return the number of a node -> what is used there for the last time."""
    last: dict[str, int] = {}
    for number, node in enumerate(nodes):
        for name in (*node.inputs, node.output):
            last[name] = number
    last.pop(output, None)
    uses: dict[int, set[str]] = {}
    for name, number in last.items():
        uses.setdefault(number, set()).add(name)
    return uses


def _step(node: Node, graph: Graph, shapes: dict[str, Shape]) -> Step:
    unknown = [name for name in node.inputs if name and name not in shapes]
    if unknown:
        raise ValueError(f"{node.operator!r} of {unknown[0]!r}, which nothing gives")
    return Step(
        node,
        [shapes[name] if name else None for name in node.inputs],
        [graph.constants.get(name) for name in node.inputs],
    )


def _result(step: Step) -> Shape:
    operator = step.node.operator
    if operator not in RULES:
        raise ValueError(f"the operator {operator!r}, which no model needs")
    check_attributes(step.node)
    try:
        result = RULES[operator](step)
    # Attributes that do not fit the shapes: too few of them, too many, too large.
    except (IndexError, OverflowError, TypeError) as error:
        raise ValueError(f"{operator!r} whose attributes do not fit its input") from error
    if len(result) > MAX_RANK or min(result, default=1) < 1:
        raise ValueError(f"{operator!r} that gives {list(result)}")
    return result
