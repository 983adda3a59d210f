"""Sizes of the lungs in their outline: plain geometry of the mask, no finding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.core.labels import Label
from cxrseg.runtime.core.orientation import UPRIGHT, Orientation
from cxrseg.runtime.core.radiograph import Spacing


@dataclass(frozen=True)
class Extent:
    """Sides of the upright box around one lung.

    Attributes:
        height_px: Along the body, in pixels; 0 where there is no lung.
        width_px: Across the body, in pixels.
        height_mm: The same in mm, or None where the pixel spacing is not known.
        width_mm: The same in mm, or None.
    """

    height_px: int
    width_px: int
    height_mm: float | None
    width_mm: float | None


@dataclass(frozen=True)
class Measurements:
    """Sizes taken on the upright mask; areas are those of `Segmentation`.

    Attributes:
        lungs: Label name -> the box around that lung.
        thoracic_width_px: Largest distance, in one row that crosses both lungs, from the outer edge
            of one lung to the outer edge of the other, in pixels; None where no row does.
        thoracic_width_mm: The same in mm, or None.
        area_ratio: Area of the right lung / area of the left, None where one of them is absent.
        spacing_source: Where the pixel spacing was read and in which plane it holds; None where
            it is not known.
    """

    lungs: dict[str, Extent]
    thoracic_width_px: int | None
    thoracic_width_mm: float | None
    area_ratio: float | None
    spacing_source: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def measure(
    mask: NDArray[np.uint8],
    labels: Sequence[Label],
    spacing: Spacing | None = None,
    orientation: Orientation | None = None,
) -> Measurements:
    """Measure the lungs of one mask.

    Args:
        mask: uint8 [H, W], laid as the image is stored: 0 = background, else a label's `value`.
        labels: The labels that the mask can hold.
        spacing: Pixel spacing of the stored image, mm.
        orientation: How the stored image lies in the patient; None = upright.

    Returns:
        Sizes in pixels and, with a spacing, in mm. A length is the number of pixels that it
        crosses, so that a lung of one pixel is 1 high.
    """
    orientation = orientation or UPRIGHT
    upright = orientation.upright(mask)
    row_mm = column_mm = None
    if spacing is not None:
        # Rows that run along the body become columns.
        turned = orientation.row not in "LR"
        row_mm, column_mm = (
            (spacing.column, spacing.row) if turned else (spacing.row, spacing.column)
        )

    lungs = {label.name: upright == label.value for label in labels}
    sides = {label.side: lungs[label.name] for label in labels}
    width = _thoracic_width(sides["right"], sides["left"]) if len(sides) == 2 else None
    area = {side: int(np.count_nonzero(lung)) for side, lung in sides.items()}
    both = bool(area.get("right") and area.get("left"))
    return Measurements(
        lungs={name: _extent(lung, row_mm, column_mm) for name, lung in lungs.items()},
        thoracic_width_px=width,
        thoracic_width_mm=_scaled(width, column_mm),
        area_ratio=area["right"] / area["left"] if both else None,
        spacing_source=None if spacing is None else spacing.source,
    )


def _extent(lung: NDArray[np.bool_], row_mm: float | None, column_mm: float | None) -> Extent:
    height, width = _span(np.any(lung, axis=1)), _span(np.any(lung, axis=0))
    height_mm, width_mm = _scaled(height, row_mm), _scaled(width, column_mm)
    return Extent(height, width, height_mm=height_mm, width_mm=width_mm)


def _span(line: NDArray[np.bool_]) -> int:
    """Return the distance from the first to the last True, both counted; bool [N]."""
    inside = np.flatnonzero(line)
    return int(inside[-1] - inside[0] + 1) if inside.size else 0


def _scaled(length: int | None, mm: float | None) -> float | None:
    return None if length is None or mm is None else length * mm


def _thoracic_width(right: NDArray[np.bool_], left: NDArray[np.bool_]) -> int | None:
    """Return the longest row across both lungs; bool [H, W], upright."""
    rows = np.flatnonzero(right.any(axis=1) & left.any(axis=1))
    if rows.size == 0:
        return None
    lungs = (right | left)[rows]
    first = lungs.argmax(axis=1)
    last = lungs.shape[1] - 1 - lungs[:, ::-1].argmax(axis=1)
    return int((last - first).max()) + 1
