"""From the stored values of a DICOM image to gray values with dense tissue bright.

The order is that of PS3.4 N.2: modality LUT, VOI LUT or window, then polarity. All of it depends on
a stored value alone, so it is computed once for each value that occurs, exactly, and looked up for
each pixel: the image itself is held once more, as float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cxrseg.runtime.core.radiograph import to_unit
from cxrseg.runtime.core.strips import strips
from cxrseg.runtime.readers.dicom.padding import at_border, padding_range, without_tissue
from cxrseg.runtime.readers.dicom.stored import Stored, photometric_of
from cxrseg.runtime.readers.dicom.tables import TableError, read_table
from cxrseg.runtime.readers.dicom.windows import of_interest, real_values

_GRAY_SPREAD = 3 / 255
"""Largest difference of the channels of a gray pixel, of full scale; JPEG is not exact."""

_COLORED = 0.001
"""A larger share of colored pixels makes a color image; a colored side marker does not."""

_DENSE = 1 << 20


class ColorError(Exception):
    """The image has colors."""


@dataclass(frozen=True)
class Grays:
    """The gray values of an image.

    Attributes:
        values: [H, W], any integer type.
        levels: The values that occur in the image, ascending.
        grays: float64, the gray value of each; larger where tissue is denser.
        outside: bool [H, W], pixels outside the image; None where there are none.
        notes: What the file says of its gray values and was not followed: provenance.
    """

    values: NDArray[Any]
    levels: NDArray[np.int64]
    grays: NDArray[np.float64]
    outside: NDArray[np.bool_] | None = None
    notes: dict[str, str] = field(default_factory=dict)

    def pixels(self, negative: bool = False) -> NDArray[np.float32]:
        """Return float32 [H, W], stretched between its extremes to [0, 1]; 0 outside the image.

        Args:
            negative: Whether small gray values become bright.
        """
        unit = to_unit((-self.grays if negative else self.grays)[None])[0]
        low, span = self.levels[0], int(self.levels[-1] - self.levels[0])
        out = np.empty(self.values.shape, np.float32)
        dense = np.zeros(0, np.float32)
        if span < _DENSE:
            dense = np.zeros(span + 1, np.float32)
            dense[self.levels - low] = unit
        for rows in strips(*self.values.shape):
            values = self.values[rows].astype(np.int64)
            if len(dense):
                np.take(dense, values - low, out=out[rows], mode="clip")
            else:
                at = np.searchsorted(self.levels, values)
                np.take(unit, at, out=out[rows], mode="clip")
        if self.outside is not None:
            out[self.outside] = 0
        return out


def gray_values(dataset: Dataset, stored: Stored) -> Grays:
    """Return the gray values of an image.

    Args:
        dataset: The image's attributes.
        stored: Its stored values.

    Raises:
        ColorError: The image has colors.
        ValueError: The photometric interpretation is none that X-rays have.
    """
    photometric, values = photometric_of(dataset), stored.values
    if photometric == "PALETTE COLOR" and values.ndim == 2:
        return _of_palette(dataset, values)
    if values.ndim == 3:
        values = _sum_of_channels(values, stored.bits)
        if not photometric.startswith("MONOCHROME"):
            levels, _ = _histogram(values)
            return Grays(values, levels, (levels.astype(np.float32) / 3).astype(np.float64))
        values = ((values + 1) // 3).astype(np.uint16)
    elif not photometric.startswith(("MONOCHROME", "RGB", "YBR")):
        raise ValueError("a photometric interpretation that is not known")
    return _of_tissue(dataset, values, negative=photometric == "MONOCHROME1")


def _of_tissue(dataset: Dataset, values: NDArray[Any], negative: bool) -> Grays:
    levels, counts = _histogram(values)

    def grays_of(
        levels: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], dict[str, str]]:
        notes: dict[str, str] = {}
        seen = of_interest(dataset, real_values(dataset, levels, notes), counts, notes)
        # Presentation LUT Shape says the same once more (PS3.3 C.8.11.3: INVERSE with MONOCHROME1).
        return np.negative(seen, out=seen) if negative else seen, notes

    grays, notes = grays_of(levels, counts)
    ends = padding_range(dataset, values.dtype)
    outside = at_border(values, *ends) if ends else None
    if outside is None or ends is None:
        return Grays(values, levels, grays, None, notes)
    inside = (levels < ends[0]) | (levels > ends[1])
    if grays[~inside].mean() > np.average(grays[inside], weights=counts[inside]):
        # Dense tissue may be connected with the border as well; black air may be taken for padding.
        outside = without_tissue(outside, values, float(np.ptp(levels[inside])))
        if not outside.any():
            return Grays(values, levels, grays, None, notes)
    padding, occurs = _histogram(values[outside][:, None])
    counts[np.searchsorted(levels, padding)] -= occurs
    levels, counts = levels[counts > 0], counts[counts > 0]
    grays, notes = grays_of(levels, counts)
    return Grays(values, levels, grays, outside, notes)


def _of_palette(dataset: Dataset, values: NDArray[Any]) -> Grays:
    levels, counts = _histogram(values)
    span = int(levels[0]), int(levels[-1])
    try:
        colors = np.stack(
            [
                read_table(
                    dataset,
                    span,
                    f"{color}PaletteColorLookupTableDescriptor",
                    f"{color}PaletteColorLookupTableData",
                ).apply(levels)
                for color in ("Red", "Green", "Blue")
            ],
            axis=1,
        )
    except TableError as error:
        raise ValueError(f"a palette: {error}") from error
    top = 255 if colors.max() < 256 else 65535
    is_colored = np.ptp(colors, axis=1) > _GRAY_SPREAD * top
    if np.average(is_colored, weights=counts) > _COLORED:
        raise ColorError
    return Grays(values, levels, colors.mean(axis=1, dtype=np.float32).astype(np.float64))


def _sum_of_channels(colors: NDArray[Any], bits: int) -> NDArray[np.uint32]:
    """Return the sum of three channels, which are equal, or brightness and two without color."""
    tolerance = _GRAY_SPREAD * (2**bits - 1)
    most = _COLORED * colors[..., 0].size
    out = np.empty(colors.shape[:2], np.uint32)
    for is_ybr in (False, True):
        colored = 0
        for rows in strips(*colors.shape[:2]):
            block = colors[rows].astype(np.int32)
            color = np.abs(block[..., 1:] - 2 ** (bits - 1)).max(axis=2)
            spread, out[rows] = np.ptp(block, axis=2), block.sum(axis=2)
            if is_ybr:
                spread, out[rows] = color, 3 * block[..., 0]
            colored += int(np.count_nonzero(spread > tolerance))
        if colored <= most:
            return out
    raise ColorError


def _histogram(values: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the values that occur, ascending, and how often each does."""
    low, high = int(values.min()), int(values.max())
    if high - low < _DENSE:
        counts = np.zeros(high - low + 1, np.int64)
        for rows in strips(*values.shape):
            block = values[rows].astype(np.int64) - low
            counts += np.bincount(block.ravel(), minlength=len(counts))
        levels = np.flatnonzero(counts)
        return levels + low, counts[levels]
    # Few images have 32 bits.
    levels, counts = np.unique(values, return_counts=True)
    return levels.astype(np.int64), counts.astype(np.int64)
