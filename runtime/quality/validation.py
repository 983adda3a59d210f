"""Reading plain data from a file that may be damaged or hostile: anything unexpected is refused."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST, SMALLEST = 1e6, 1e-6
"""Largest number of any kind, and smallest of those that must be positive."""


def fields_of(value: object, keys: Collection[str], name: str) -> dict[str, Any]:
    """Return an object of JSON that holds exactly these keys.

    Raises:
        ValueError: It is something else; the message calls it `name`.
    """
    if not isinstance(value, dict) or set(value) != set(keys):
        raise ValueError(f"{name} must hold {', '.join(keys)}, no more")
    return value


def numbers(value: object, size: int, name: str) -> NDArray[np.float64]:
    """Return a list of numbers as float64 [size], each at most `LARGEST`.

    Raises:
        ValueError: It is something else; the message calls it `name`.
    """
    listed = isinstance(value, list) and all(type(number) in (float, int) for number in value)
    if not isinstance(value, list) or not listed or len(value) != size:
        raise ValueError(f"{name} must be {size} numbers")
    try:
        array = np.array(value, np.float64)
    except OverflowError as error:
        raise ValueError(f"{name} holds a number that is too large") from error
    # Not a number compares as false.
    if not (np.abs(array) <= LARGEST).all():
        raise ValueError(f"{name} holds a number that is too large, or none")
    return array


def positive(value: object, name: str) -> float:
    """Return a number from `SMALLEST` to `LARGEST`.

    Raises:
        ValueError: It is something else; the message calls it `name`.
    """
    (number,) = numbers([value], 1, name)
    if number < SMALLEST:
        raise ValueError(f"{name} is not above 0")
    return float(number)
