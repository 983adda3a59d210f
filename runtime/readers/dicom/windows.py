"""Modality and VOI transformations (PS3.3 C.11.1, C.11.2) of the values that occur in an image.

pydicom applies windows and rescales. Of several tables and windows the first is taken that shows
the image.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_windowing

from cxrseg.runtime.readers.dicom.tables import Table, TableError, numbers, read_table

MOST_HIDDEN = 0.7
"""A window that gives one gray value to a larger share of an image hides it."""

_SHADES = 255
_MOST_TABLES = 16

Values = NDArray[np.int64] | NDArray[np.float64]


def real_values(dataset: Dataset, stored: NDArray[np.int64], notes: dict[str, str]) -> Values:
    """Apply the modality LUT or rescale.

    Args:
        dataset: The image's attributes.
        stored: int64 [N], values that occur, ascending.
        notes: Gets what was not followed.

    Returns:
        [N], one value for each.
    """
    for item in _items(dataset, "ModalityLUTSequence", notes, "modality_lut")[:1]:
        table = _table(item, stored, notes, "modality_lut")
        if table is not None:
            return table.apply(stored)
    slope, intercept = numbers(dataset, "RescaleSlope"), numbers(dataset, "RescaleIntercept")
    if not slope or not intercept or not np.isfinite([slope[0], intercept[0]]).all():
        return stored
    if slope[0] == 0:
        return stored
    linear = Dataset()
    linear.RescaleSlope, linear.RescaleIntercept = slope[0], intercept[0]
    return np.asarray(apply_modality_lut(stored, linear), dtype=np.float64)


def of_interest(
    dataset: Dataset, values: Values, counts: NDArray[np.int64], notes: dict[str, str]
) -> NDArray[np.float64]:
    """Apply the first VOI LUT or window that leaves something to see.

    Args:
        dataset: The image's attributes.
        values: [N], real values that occur.
        counts: int64 [N], how often each does.
        notes: Gets what was not followed.

    Returns:
        float64 [N], one gray value for each; the values themselves where nothing shows them.
    """
    for name, number, seen in _views(dataset, values, notes):
        if np.ptp(seen) > 0 and not _hides(seen, values, counts):
            if number > 1:
                notes[name] = f"number {number} is used: those before hide most of the image"
            return seen.astype(np.float64)
        notes[name] = "ignored: it hides most of the image"
    return values.astype(np.float64)


def _views(
    dataset: Dataset, values: Values, notes: dict[str, str]
) -> Iterator[tuple[str, int, Values]]:
    """Yield what each table and each window shows, with its kind and number."""
    whole = np.rint(values).astype(np.int64)
    items = _items(dataset, "VOILUTSequence", notes, "voi_lut")
    for number, item in enumerate(items, start=1):
        table = _table(item, whole, notes, "voi_lut")
        if table is not None:
            yield "voi_lut", number, table.apply(whole)
    windows = zip(numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth"), strict=False)
    for number, (center, width) in enumerate(windows, start=1):
        view = _window(dataset, center, width)
        # What pydicom, with the standard, takes for a window.
        is_linear = view.get("VOILUTFunction", "LINEAR") == "LINEAR"
        if np.isfinite([center, width]).all() and width > 0 and (width >= 1 or not is_linear):
            yield "window", number, apply_windowing(values, view)


def _items(dataset: Dataset, keyword: str, notes: dict[str, str], name: str) -> list[Dataset]:
    try:
        items = list(dataset.get(keyword) or ())[:_MOST_TABLES]
        if not all(isinstance(item, Dataset) for item in items):
            raise TypeError("no sequence")
        return items
    # On damaged sequences pydicom raises nearly any type.
    except Exception:
        notes[name] = "ignored: it is damaged"
        return []


def _table(
    item: Dataset, values: NDArray[np.int64], notes: dict[str, str], name: str
) -> Table | None:
    if "LUTDescriptor" not in item and "LUTData" not in item:
        return None
    try:
        table = read_table(item, (int(values.min()), int(values.max())))
    except TableError as error:
        notes[name] = f"ignored: {error}"
        return None
    if table.note:
        notes[name] = f"used: {table.note}"
    return table


def _hides(seen: Values, values: Values, counts: NDArray[np.int64]) -> bool:
    """Tell whether one gray value covers most of an image in which none did before.

    The smallest and the largest value do not count: they are the background.
    """
    inner = (values > values.min()) & (values < values.max())
    if not inner.any():
        return False
    shares = [_largest_share(x[inner], counts[inner]) for x in (seen, values)]
    return shares[0] > MOST_HIDDEN >= shares[1]


def _largest_share(values: Values, counts: NDArray[np.int64]) -> float:
    low, span = float(values.min()), float(np.ptp(values))
    shades = np.rint((values - low) / span * _SHADES if span else values * 0).astype(np.int64)
    return float(np.bincount(shades, counts).max() / counts.sum())


def _window(dataset: Dataset, center: float, width: float) -> Dataset:
    """Return what pydicom needs to apply a window, its output in 0..65535.

    pydicom takes the output's range from the rescale too, which inverts it if the slope is
    negative.
    """
    view = Dataset()
    view.PhotometricInterpretation = "MONOCHROME2"
    view.BitsStored, view.PixelRepresentation = 16, 0
    view.WindowCenter, view.WindowWidth = center, width
    function = str(dataset.get("VOILUTFunction") or "").upper()
    if function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        view.VOILUTFunction = function
    return view
