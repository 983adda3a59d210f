"""How an image lies: which way its rows and columns run in the patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

Direction = Literal["L", "R", "F", "H"]
"""Towards the patient's left, right, feet or head."""


@dataclass(frozen=True)
class Orientation:
    """Where rows and columns of a frontal image run to (DICOM PS3.3 C.7.6.1.1.1).

    One of the two is ``L`` or ``R``, the other ``F`` or ``H``.

    Attributes:
        row: Where a row runs to from its first pixel to its last.
        column: Where a column runs to.
    """

    row: Direction
    column: Direction

    def __post_init__(self) -> None:
        if (self.row in "LR") == (self.column in "LR"):
            raise ValueError(f"{self.row}, {self.column} are not two axes of a frontal image")

    @property
    def is_upright(self) -> bool:
        """Whether the head is up and the patient's left on the right of the image."""
        return self == UPRIGHT

    def upright(self, image: NDArray[Any]) -> NDArray[Any]:
        """Turn a stored [H, W] upright; a view, [W, H] where rows run along the body."""
        turned = image if self.row in "LR" else image.T
        return self._flip(turned)

    def stored(self, image: NDArray[Any]) -> NDArray[Any]:
        """Undo `upright`."""
        flipped = self._flip(image)
        return flipped if self.row in "LR" else flipped.T

    def _flip(self, image: NDArray[Any]) -> NDArray[Any]:
        directions = (self.row, self.column)
        rows = -1 if "H" in directions else 1
        columns = -1 if "R" in directions else 1
        return image[::rows, ::columns]


UPRIGHT = Orientation("L", "F")
"""Head up, the patient's left on the right of the image."""
