"""The radiograph: what every reader makes and everything else takes, and its gray scale."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.core.borders import inside_borders
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.flags import Flag
from cxrseg.runtime.core.orientation import UPRIGHT, Orientation
from cxrseg.runtime.core.strips import strips

MAX_PIXELS = 100_000_000
"""Largest image accepted, in pixels; a detector plate has fewer than 20 million."""

MIN_SIDE = 32
"""Shortest side accepted, in pixels; below it right and left lung run together."""


@dataclass(frozen=True)
class Spacing:
    """Pixel spacing in mm, and where it was read.

    Attributes:
        row: Distance between rows, mm.
        column: Distance between columns, mm.
        source: The DICOM attribute that it came from, and the plane where it holds: at the
            detector an object is a tenth or so larger than it is.
    """

    row: float
    column: float
    source: str


@dataclass(frozen=True)
class Radiograph:
    """A chest X-ray as the model is meant to see it.

    Attributes:
        pixels: float32 [H, W] in [0, 1], dense tissue bright, at the native size, laid as stored.
        spacing: Pixel spacing, or None where the file has none (PNG and its like).
        provenance: Facts of the reading for the result file, e.g. ``{"format": "PNG", "bits": 8}``;
            nothing of the patient.
        orientation: How rows and columns run in the patient; None where the file does not say,
            and then the image is taken for upright.
        flags: Doubts that came up while reading; they become flags of the segmentation.
    """

    pixels: NDArray[np.float32]
    spacing: Spacing | None = None
    provenance: dict[str, str | int | float] = field(default_factory=dict)
    orientation: Orientation | None = None
    flags: tuple[Flag, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Native size (height, width) in pixels."""
        height, width = self.pixels.shape
        return height, width

    @property
    def upright(self) -> NDArray[np.float32]:
        """The pixels with the head up and the patient's left on the right, C-contiguous."""
        orientation = self.orientation or UPRIGHT
        return np.ascontiguousarray(orientation.upright(self.pixels))

    @property
    def content(self) -> NDArray[np.float32]:
        """The upright pixels inside uniform borders, which the network sees."""
        upright = self.upright
        return upright[inside_borders(upright)]


def check_size(height: int, width: int, subject: str | os.PathLike[str]) -> None:
    """Refuse an image that is too small or too large.

    Args:
        height: Rows in pixels.
        width: Columns in pixels.
        subject: The image, as the message shall name it.

    Raises:
        CxrsegError: A side is shorter than `MIN_SIDE`, or there are more than `MAX_PIXELS`.
    """
    if min(height, width) < MIN_SIDE:
        raise CxrsegError(
            subject,
            f"the image is too small ({width} x {height} pixels)",
            f"both sides must have at least {MIN_SIDE} pixels",
        )
    if height * width > MAX_PIXELS:
        raise CxrsegError(
            subject,
            f"the image is too large ({width} x {height} pixels)",
            f"at most {MAX_PIXELS // 1_000_000} million pixels are accepted",
        )


def to_unit(pixels: NDArray[Any], top: float | None = None) -> NDArray[np.float32]:
    """Scale gray values to [0, 1].

    Args:
        pixels: [H, W] of bool or any integer or real type.
        top: The value that becomes 1 while 0 stays 0. Without it: 255 for uint8, 65535 for
            uint16, 1 for bool; other types are stretched from their smallest to their largest
            finite value.

    Returns:
        float32 [H, W] in [0, 1]; values that are not finite become 0, a constant image too.
    """
    known = {np.dtype(np.bool_): 1.0, np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}
    if top is None:
        top = known.get(pixels.dtype.newbyteorder("="))
    unit = np.zeros(pixels.shape, dtype=np.float32)
    if top is not None:
        np.copyto(unit, pixels, casting="unsafe")
        unit /= np.float32(top)
        return np.clip(unit, 0, 1, out=unit)
    low, high = _extremes(pixels)
    # Halves, so that the span of the widest float64 values does not overflow.
    span = high / 2 - low / 2
    if not span > 0:
        return unit
    for rows in strips(*pixels.shape):
        # float64: the span of float32 or int32 values may exceed what their own type holds.
        values = pixels[rows].astype(np.float64)
        values[~np.isfinite(values)] = low
        np.clip((values / 2 - low / 2) / span, 0, 1, out=values)
        unit[rows] = values
    return unit


def _extremes(pixels: NDArray[Any]) -> tuple[float, float]:
    """Return the smallest and the largest finite value; infinity and its negative without one."""
    low, high = np.inf, -np.inf
    for rows in strips(*pixels.shape):
        values = pixels[rows]
        finite = values[np.isfinite(values)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return low, high
