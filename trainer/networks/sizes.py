"""Numbers that size a network, checked in one place: a checkpoint may hold any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from cxrseg.runtime.core.labels import structure_named

MAX_WIDTH = 16_384
"""Most channels of a layer; the widest of vit_h has 5,120."""

MAX_BLOCKS = 64
"""Most blocks of an encoder, and heads of an attention; vit_h has 32 blocks."""


def require_whole(name: str, value: object, low: int, high: int) -> None:
    """Refuse what is no whole number in low..high.

    Raises:
        ValueError: It is not.
    """
    # True is an int of Python's, too.
    if type(value) is not int:
        raise ValueError(f"{name} is no whole number")
    if not low <= value <= high:
        raise ValueError(f"{name} is not in {low} to {high}")


def require_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the names of output channels, at least one, all of them known.

    Raises:
        ValueError: There are none.
        KeyError: One is not known to `cxrseg.runtime.core.labels`.
    """
    if not labels:
        raise ValueError("no labels")
    for name in labels:
        structure_named(name)
    return tuple(labels)


class AtMost(TorchFunctionMode):
    """A context in which only so many numbers are made.

    What torch makes of tensors is not counted, nor freed memory given back. A tensor is counted
    once it is there, but before a layer fills it: memory that nothing was written to costs nothing.

    Args:
        numbers: How many, in all tensors together.

    Raises:
        ValueError: More are made, in the context.
    """

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self._left = numbers

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, and count what it makes of no tensor."""
        named = kwargs or {}
        made = func(*args, **named)
        given = (*args, *named.values())
        if isinstance(made, Tensor) and not any(isinstance(value, Tensor) for value in given):
            self._left -= made.numel()
            if self._left < 0:
                raise ValueError("it asks for a network of far more weights than it holds")
        return made
