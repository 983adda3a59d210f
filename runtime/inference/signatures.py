"""Attributes and types of numbers that ``cxrseg-export`` writes; a model file may have no others.

An attribute that nobody looks at may change what shape an operator gives, or how much it computes:
``Resize`` has one that lets it choose its size by itself.

A network computes in floats. Integers are its weights and quantized values, which are moved and
turned into floats, and the shapes and places that its operators are told. So no integer is ever
added or divided: the least integer divided by -1 would end the process.
"""

from __future__ import annotations

from collections.abc import Sequence

from cxrseg.runtime.inference.onnx_graph import FLOAT, INT64, Node, Shape

Values = tuple[str | Shape, ...]

_ANY: Values = ()
_NO: Values = ((0,),)
_SWITCH: Values = ((0,), (1,))
_WINDOW: dict[str, Values] = {
    **dict.fromkeys(("kernel_shape", "strides", "pads", "dilations"), _ANY),
    "auto_pad": ("NOTSET",),
}
_AXIS: dict[str, Values] = {"axis": _ANY}
_ACTIVATION = dict.fromkeys(("alpha", "beta"), _ANY)
_REDUCTION: dict[str, Values] = {"keepdims": _SWITCH}

ATTRIBUTES: dict[str, dict[str, Values]] = {
    "AveragePool": _WINDOW | {"ceil_mode": _NO, "count_include_pad": _SWITCH},
    "Cast": {"to": _ANY},
    "Concat": _AXIS,
    "Conv": _WINDOW | {"group": _ANY},
    "ConvTranspose": _WINDOW | {"group": _ANY, "output_padding": _ANY},
    "DequantizeLinear": _AXIS,
    "Gather": _AXIS,
    "Gelu": {"approximate": ("none", "tanh")},
    "Gemm": dict.fromkeys(("alpha", "beta"), _ANY) | dict.fromkeys(("transA", "transB"), _SWITCH),
    "HardSigmoid": _ACTIVATION,
    "LayerNormalization": _AXIS | {"epsilon": _ANY, "stash_type": ((1,),)},
    "MaxPool": _WINDOW | {"ceil_mode": _NO, "storage_order": _NO},
    "Pad": {"mode": ("constant",)},
    "QuantizeLinear": _AXIS,
    "ReduceMax": _REDUCTION,
    "ReduceMean": _REDUCTION,
    "Reshape": {"allowzero": _SWITCH},
    "Resize": {
        "antialias": _NO,
        "coordinate_transformation_mode": ("asymmetric", "half_pixel", "pytorch_half_pixel"),
        "cubic_coeff_a": _ANY,
        "exclude_outside": _NO,
        "extrapolation_value": _ANY,
        "keep_aspect_ratio_policy": ("stretch",),
        "mode": ("nearest", "linear"),
        "nearest_mode": ("floor", "round_prefer_floor"),
    },
    "ScatterElements": _AXIS | {"reduction": ("none",)},
    "Softmax": _AXIS,
    "Transpose": {"perm": _ANY},
}
"""Operator -> its attributes -> their values; none stands for any integers or floats, but no text.
An operator that is not here has no attributes."""


def check_attributes(node: Node) -> None:
    """Refuse a node with another attribute, or another value of it.

    Raises:
        ValueError: It has one. The message goes with "it has".
    """
    allowed = ATTRIBUTES.get(node.operator, {})
    for name, value in (*node.texts.items(), *node.integers.items()):
        values = allowed.get(name)
        if values is None:
            raise ValueError(f"{node.operator!r} with {name!r}, which no model needs")
        if isinstance(value, str) if values == _ANY else value not in values:
            raise ValueError(f"{node.operator!r} whose {name!r} is {value!r:.60}")


UINT8, INT8, INT32, FLOAT16 = 2, 3, 6, 10
"""Numbers of ONNX's ``TensorProto.DataType``."""

_FLOATS = (FLOAT, FLOAT16)

_MOVES = frozenset(
    ("Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Transpose", "Unsqueeze")
)
"""Operators that move numbers of any type."""

_PLACES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Expand", "Gather", "Pad", "ReduceMax", "ReduceMean"), (1,)),
    **dict.fromkeys(("Reshape", "ScatterElements", "Unsqueeze"), (1,)),
    "ConstantOfShape": (0,),
    "Resize": (3,),
    "Slice": (1, 2, 3, 4),
}
"""Operator -> which of its inputs are shapes, axes or places, of int64."""


def element_type(node: Node, kinds: Sequence[int | None]) -> int:
    """Return the element type of what a node gives.

    Args:
        node: The node.
        kinds: The element types of its inputs; None where an optional one is left out.

    Raises:
        ValueError: No network has such a node.
    """
    operator, places = node.operator, _PLACES.get(node.operator, ())
    told = [kind for number, kind in enumerate(kinds) if number in places and kind is not None]
    given = [kind for number, kind in enumerate(kinds) if number not in places and kind is not None]
    if operator == "ConstantOfShape":
        fits, result = not given, FLOAT
    elif operator == "Cast":
        result = next(iter(node.integers.get("to", ())), 0)
        fits = len(given) == 1 and given[0] in _FLOATS and result in _FLOATS
    elif operator == "QuantizeLinear":
        result = given[2] if len(given) == 3 else UINT8
        fits = result in (UINT8, INT8) and set(given[:2]) in ({FLOAT}, {FLOAT16})
    elif operator == "DequantizeLinear":
        values, *rest = given or [0]
        result = rest[0] if rest else 0
        fits = values in (UINT8, INT8, INT32) and result in _FLOATS and rest[1:] in ([], [values])
    else:
        result = given[0] if given else 0
        fits = set(given) == {result} and (operator in _MOVES or result in _FLOATS)
    if not fits or any(kind != INT64 for kind in told):
        types = ", ".join(str(kind) for kind in kinds if kind is not None)
        raise ValueError(f"{operator!r} of types that no model needs ({types})")
    return result
