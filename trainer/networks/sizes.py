"""Numbers that size a network, checked in one place: a checkpoint may hold any."""

from __future__ import annotations

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
