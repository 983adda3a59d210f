"""From the stored values of a DICOM image to gray values with dense tissue bright.

The order is that of PS3.4 N.2: modality LUT, VOI LUT or window, then polarity. pydicom applies the
tables; here they are made safe for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, apply_windowing

_GRAY_SPREAD = 3 / 255
"""Largest difference of the channels of a gray pixel, of full scale; JPEG is not exact."""

_COLORED = 0.001
"""A larger share of colored pixels makes a color image; a colored side marker does not."""


class ColorError(Exception):
    """The image has colors."""


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """Return the values of an element, empty where it is absent, empty or no numbers."""
    with suppress(Exception):
        value = dataset.get(keyword)
        if value is None or value == "":
            return ()
        values = [value] if isinstance(value, str) or not isinstance(value, Sequence) else value
        return tuple(float(x) for x in values)
    return ()


def gray_values(dataset: Dataset, stored: NDArray[Any]) -> NDArray[Any]:
    """Return real values [H, W], larger where tissue is denser, NaN where there is no image.

    Args:
        dataset: The image's attributes. Its lookup tables may be changed.
        stored: Decoded stored values, any integer type: [H, W], or [H, W, 3] in RGB.

    Raises:
        ColorError: The image has colors.
    """
    photometric = dataset.PhotometricInterpretation
    if photometric == "PALETTE COLOR":
        colors = apply_color_lut(stored, dataset)[..., :3]
        return _of_colors(colors, 8 * colors.itemsize)
    if stored.ndim == 3:
        return _of_colors(stored, int(dataset.BitsStored))
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"photometric interpretation {photometric} of gray values")
    values = _of_interest(dataset, _modality(dataset, stored.astype(np.int64)))
    # Presentation LUT Shape says the same once more (PS3.3 C.8.11.3: INVERSE with MONOCHROME1).
    gray = np.where(_padding(dataset, stored), np.nan, values)
    return np.negative(gray, out=gray) if photometric == "MONOCHROME1" else gray


def _of_colors(colors: NDArray[Any], bits: int) -> NDArray[Any]:
    top = 2**bits - 1
    spread = colors.max(axis=2).astype(np.float32) - colors.min(axis=2)
    if np.mean(spread > _GRAY_SPREAD * top) > _COLORED:
        raise ColorError
    return np.asarray(colors.mean(axis=2, dtype=np.float32))


def _padding(dataset: Dataset, stored: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell the pixels outside the image (PS3.3 C.7.5.1.1.2), none if that were all of them."""
    value = numbers(dataset, "PixelPaddingValue")
    limit = numbers(dataset, "PixelPaddingRangeLimit")
    outside = np.zeros(stored.shape, dtype=bool)
    if value:
        ends = np.array([value[0], *limit[:1]]).astype(np.int64).astype(stored.dtype)
        outside = (stored >= ends.min()) & (stored <= ends.max())
    return np.zeros_like(outside) if outside.all() else outside


def _modality(dataset: Dataset, values: NDArray[np.int64]) -> NDArray[Any]:
    """Apply the modality LUT or rescale (PS3.3 C.11.1)."""
    if dataset.get("ModalityLUTSequence"):
        return apply_modality_lut(_within_table(values, dataset.ModalityLUTSequence[0]), dataset)
    slope, intercept = numbers(dataset, "RescaleSlope"), numbers(dataset, "RescaleIntercept")
    if not slope or not intercept or not np.isfinite([slope[0], intercept[0]]).all():
        return values
    return values if slope[0] == 0 else apply_modality_lut(values, dataset)


def _of_interest(dataset: Dataset, values: NDArray[Any]) -> NDArray[np.float64]:
    """Apply the first VOI LUT or window (PS3.3 C.11.2) unless it leaves nothing to see."""
    seen = values
    tables = dataset.get("VOILUTSequence")
    if tables and tables[0].get("LUTDescriptor") and tables[0].get("LUTData"):
        whole = np.rint(values).astype(np.int64)
        seen = apply_voi(_within_table(whole, tables[0]), dataset)
    else:
        center, width = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
        if center and width and np.isfinite([center[0], width[0]]).all():
            window = _window(dataset, center[0], width[0])
            # What pydicom, with the standard, takes for a window.
            if width[0] >= 1 or (
                width[0] > 0 and window.get("VOILUTFunction", "LINEAR") != "LINEAR"
            ):
                seen = apply_windowing(values, window)
    shown = seen if np.ptp(seen) > 0 else values
    return shown.astype(np.float64)


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


def _within_table(values: NDArray[np.int64], table: Dataset) -> NDArray[np.int64]:
    """Return the values clipped to a table's first and last entry.

    pydicom casts the index to the type of the entries, and knows no 9 to 15 bits in some places.
    """
    entries, first, bits = (int(x) for x in table.LUTDescriptor)
    if 8 <= bits < 16:
        table.LUTDescriptor = [entries, first, 16]
    return np.clip(values, first, first + (entries or 1 << 16) - 1)
