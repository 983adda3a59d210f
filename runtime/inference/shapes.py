"""What each operator makes of the shapes that come in, and how much it computes.

The operators here are those that ``cxrseg-export`` writes, and so the only ones that a model file
may have. Their rules are ONNX's (https://onnx.ai/onnx/operators/), for the attributes that are
written. All shapes are known before anything runs, since shapes and axes are stored constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from cxrseg.runtime.inference.onnx_graph import FLOAT, INT64, Constant, Node, Shape


@dataclass(frozen=True)
class Step:
    """A node whose inputs are known.

    Attributes:
        node: The node.
        shapes: Of its inputs; None where an optional one is left out.
        stored: Its inputs that are stored constants, else None.
    """

    node: Node
    shapes: Sequence[Shape | None]
    stored: Sequence[Constant | None]

    def shape(self, index: int) -> Shape:
        """Return the shape of an input that the operator cannot do without."""
        shape = self.shapes[index] if index < len(self.shapes) else None
        if shape is None:
            raise ValueError(f"{self.node.operator!r} without its input {index}")
        return shape

    def has(self, index: int) -> bool:
        """Tell whether an optional input is given."""
        return index < len(self.shapes) and self.shapes[index] is not None

    def values(self, index: int) -> Shape:
        """Return the integers of an input, which must be a stored constant of int64."""
        constant = self.stored[index] if self.has(index) else None
        if constant is None or constant.kind != INT64 or len(constant.content) > _MOST_VALUES * 8:
            raise ValueError(f"{self.node.operator!r} with a shape that is not stored")
        return tuple(np.frombuffer(constant.content, "<i8").tolist())

    def attribute(self, name: str, default: Shape) -> Shape:
        """Return the integers of an attribute."""
        return self.node.integers.get(name, default)

    def number(self, name: str, default: int) -> int:
        """Return an attribute of one integer."""
        values = self.attribute(name, (default,))
        if len(values) != 1:
            raise ValueError(f"{self.node.operator!r} with {name!r} that is not one number")
        return values[0]


_MOST_VALUES = 64

Rule = Callable[[Step], Shape]


def _same(step: Step) -> Shape:
    return step.shape(0)


def _broadcast(step: Step) -> Shape:
    shapes = [step.shape(index) for index in range(len(step.shapes))]
    return broadcast(*shapes)


def broadcast(*shapes: Shape) -> Shape:
    """Return the shape that shapes are broadcast to.

    Raises:
        ValueError: They do not fit.
    """
    rank = max(map(len, shapes))
    full = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    result = tuple(max(sizes) if 0 not in sizes else 0 for sizes in zip(*full, strict=True))
    if any(
        size not in (1, wide) for shape in full for size, wide in zip(shape, result, strict=True)
    ):
        raise ValueError(f"shapes that do not fit ({', '.join(map(str, shapes))})")
    return result


def _matmul(step: Step) -> Shape:
    first, second = step.shape(0), step.shape(1)
    if min(len(first), len(second)) < 2 or first[-1] != second[-2]:
        raise ValueError(f"a product of {first} and {second}")
    return (*broadcast(first[:-2], second[:-2]), first[-2], second[-1])


def _gemm(step: Step) -> Shape:
    first, second = step.shape(0), step.shape(1)
    if step.number("transA", 0):
        first = first[::-1]
    if step.number("transB", 0):
        second = second[::-1]
    if (len(first), len(second)) != (2, 2) or first[1] != second[0]:
        raise ValueError(f"a product of {first} and {second}")
    result = first[0], second[1]
    if step.has(2) and broadcast(result, step.shape(2)) != result:
        raise ValueError(f"a product {result} with a bias {step.shape(2)}")
    return result


def _window(step: Step, kernel: Shape) -> tuple[Shape, Shape, Shape, Shape]:
    """Return strides, dilations, and padding before and after, of each axis."""
    rank = len(kernel)
    strides = step.attribute("strides", (1,) * rank)
    dilations = step.attribute("dilations", (1,) * rank)
    pads = step.attribute("pads", (0,) * 2 * rank)
    if (len(strides), len(dilations), len(pads)) != (rank, rank, 2 * rank):
        raise ValueError(f"{step.node.operator!r} whose attributes do not fit its input")
    if min(*strides, *dilations, *kernel) < 1 or min(pads) < 0:
        raise ValueError(f"{step.node.operator!r} with an impossible window")
    return strides, dilations, pads[:rank], pads[rank:]


def _slid(step: Step, kernel: Shape) -> Shape:
    """Return the size that a sliding window leaves of the image."""
    sizes = step.shape(0)[2:]
    if len(sizes) != len(kernel):
        raise ValueError(f"{step.node.operator!r} of {len(kernel)} axes on {len(sizes)}")
    strides, dilations, before, after = _window(step, kernel)
    return tuple(
        (size + a + b - (k - 1) * d - 1) // s + 1
        for size, a, b, k, d, s in zip(
            sizes, before, after, kernel, dilations, strides, strict=True
        )
    )


def _conv(step: Step) -> Shape:
    image, weight, groups = step.shape(0), step.shape(1), step.number("group", 1)
    if len(weight) < 3 or image[1:2] != (weight[1] * groups,) or weight[0] % max(groups, 1):
        raise ValueError(f"a convolution of {image} with {weight}")
    return (image[0], weight[0], *_slid(step, weight[2:]))


def _conv_transpose(step: Step) -> Shape:
    image, weight = step.shape(0), step.shape(1)
    kernel, groups = weight[2:], max(step.number("group", 1), 1)
    if len(weight) < 3 or len(image) != len(weight) or image[1] != weight[0] or weight[0] % groups:
        raise ValueError(f"a transposed convolution of {image} with {weight}")
    strides, dilations, before, after = _window(step, kernel)
    more = step.attribute("output_padding", (0,) * len(kernel))
    sizes = tuple(
        s * (size - 1) + extra + (k - 1) * d + 1 - a - b
        for size, s, extra, k, d, a, b in zip(
            image[2:], strides, more, kernel, dilations, before, after, strict=True
        )
    )
    return (image[0], weight[1] * step.number("group", 1), *sizes)


def _pool(step: Step) -> Shape:
    return (*step.shape(0)[:2], *_slid(step, step.attribute("kernel_shape", ())))


def _global_pool(step: Step) -> Shape:
    image = step.shape(0)
    return (*image[:2], *(1,) * len(image[2:]))


def _reshape(step: Step) -> Shape:
    before, wanted = step.shape(0), list(step.values(1))
    if not step.number("allowzero", 0):
        wanted = [before[i] if size == 0 else size for i, size in enumerate(wanted)]
    if wanted.count(-1) == 1:
        known = -prod(wanted)
        wanted[wanted.index(-1)] = prod(before) // known if known > 0 else 0
    if min(wanted, default=1) < 0 or prod(wanted) != prod(before):
        raise ValueError(f"{list(before)} reshaped to {wanted}")
    return tuple(wanted)


def _expand(step: Step) -> Shape:
    return broadcast(step.shape(0), step.values(1))


def _filled(step: Step) -> Shape:
    return step.values(0)


def _transpose(step: Step) -> Shape:
    shape = step.shape(0)
    order = step.attribute("perm", tuple(reversed(range(len(shape)))))
    if sorted(order) != list(range(len(shape))):
        raise ValueError(f"{list(shape)} transposed by {list(order)}")
    return tuple(shape[axis] for axis in order)


def _concat(step: Step) -> Shape:
    shapes = [list(step.shape(index)) for index in range(len(step.shapes))]
    (axis,) = _axes(step, (step.number("axis", 0),), len(shapes[0]))
    length = sum(shape[axis] for shape in shapes if len(shape) == len(shapes[0]))
    for shape in shapes:
        shape[axis] = length
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"shapes that do not fit ({shapes})")
    return tuple(shapes[0])


def _axes(step: Step, axes: Sequence[int], rank: int) -> list[int]:
    if any(not -rank <= axis < rank for axis in axes) or len({a % rank for a in axes}) != len(axes):
        raise ValueError(f"{step.node.operator!r} along axes {list(axes)} of {rank}")
    return [axis % rank for axis in axes]


def _slice(step: Step) -> Shape:
    shape = list(step.shape(0))
    starts, ends = step.values(1), step.values(2)
    given = step.values(3) if step.has(3) else tuple(range(len(starts)))
    steps = step.values(4) if step.has(4) else (1,) * len(starts)
    axes = _axes(step, given, len(shape))
    for axis, start, end, stride in zip(axes, starts, ends, steps, strict=True):
        shape[axis] = len(range(*slice(start, end, stride).indices(shape[axis])))
    return tuple(shape)


def _gather(step: Step) -> Shape:
    shape = step.shape(0)
    (axis,) = _axes(step, (step.number("axis", 0),), len(shape))
    return (*shape[:axis], *step.shape(1), *shape[axis + 1 :])


def _unsqueeze(step: Step) -> Shape:
    shape, new = list(step.shape(0)), step.values(1)
    for axis in sorted(_axes(step, new, len(shape) + len(new))):
        shape.insert(axis, 1)
    return tuple(shape)


def _pad(step: Step) -> Shape:
    shape, pads = step.shape(0), step.values(1)
    if step.has(3) or len(pads) != 2 * len(shape):
        raise ValueError("'Pad' along some of the axes")
    return tuple(n + a + b for n, a, b in zip(shape, pads, pads[len(shape) :], strict=False))


def _reduce(step: Step) -> Shape:
    shape = step.shape(0)
    given = step.values(1) if step.has(1) else ()
    axes = _axes(step, given or range(len(shape)), len(shape))
    kept = step.number("keepdims", 1)
    return tuple(
        1 if axis in axes else size for axis, size in enumerate(shape) if kept or axis not in axes
    )


def _resize(step: Step) -> Shape:
    shape = step.shape(0)
    if step.has(3):
        sizes = step.values(3)
    else:
        scales = step.stored[2] if step.has(2) else None
        if scales is None or scales.kind != FLOAT or len(scales.content) != 4 * len(shape):
            raise ValueError("'Resize' with a size that is not stored")
        factors = np.frombuffer(scales.content, "<f4").astype(float).tolist()
        sizes = tuple(int(n * factor) for n, factor in zip(shape, factors, strict=True))
    if len(sizes) != len(shape):
        raise ValueError("'Resize' along some of the axes")
    return sizes


_UNARY = (
    *("Cast", "Clip", "DequantizeLinear", "Erf", "Gelu", "HardSigmoid", "HardSwish", "Identity"),
    *("LayerNormalization", "QuantizeLinear", "Relu", "ScatterElements", "Sigmoid", "Softmax"),
    *("Sqrt", "Tanh"),
)

RULES: dict[str, Rule] = {
    **dict.fromkeys(_UNARY, _same),
    **dict.fromkeys(("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"), _broadcast),
    **dict.fromkeys(("AveragePool", "MaxPool"), _pool),
    **dict.fromkeys(("ReduceMax", "ReduceMean"), _reduce),
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Expand": _expand,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "MatMul": _matmul,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""Operator -> the shape that it gives. A network with another operator needs its rule here."""


STEP, FUNCTION, POWER = 16, 32, 128
"""How many multiplications of a product take as long as moving a number, a function like erf, and a
power, about: products keep their numbers in registers."""

_FUNCTIONS = (
    *("Erf", "Gelu", "HardSigmoid", "HardSwish", "LayerNormalization", "Sigmoid", "Softmax"),
    *("Cast", "Div", "Sqrt", "Tanh"),
)
_COSTS = {**dict.fromkeys(_FUNCTIONS, FUNCTION), "Pow": POWER}


def work(step: Step, result: Shape) -> int:
    """Return how many multiplications a node takes, or how many would take as long, about."""
    operator, elements = step.node.operator, prod(result)
    products = 0
    if operator == "MatMul":
        products = elements * step.shape(0)[-1]
    elif operator == "Gemm":
        products = elements * step.shape(0)[0 if step.number("transA", 0) else 1]
    elif operator == "Conv":
        products = elements * prod(step.shape(1)[1:])
    elif operator == "ConvTranspose":
        products = prod(step.shape(0)[:1] + step.shape(0)[2:]) * prod(step.shape(1))
    elif operator in ("AveragePool", "MaxPool"):
        products = elements * prod(step.attribute("kernel_shape", ())) * STEP
    most = max(elements, *(prod(shape) for shape in step.shapes if shape is not None))
    return max(products, most * _COSTS.get(operator, STEP))
