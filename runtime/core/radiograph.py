"""The radiograph: what every reader makes and everything else takes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.core.flags import Flag
from cxrseg.runtime.core.orientation import Orientation

MAX_PIXELS = 100_000_000
"""Largest image accepted, in pixels; a detector plate has fewer than 20 million."""

MIN_SIDE = 32
"""Shortest side accepted, in pixels; below it no lung can be told from another."""


@dataclass(frozen=True)
class Spacing:
    """Pixel spacing in mm, and where it was read.

    Attributes:
        row: Distance between rows, mm.
        column: Distance between columns, mm.
        source: The DICOM attribute that it came from, and the plane where mm are told: at the
            detector an object looks larger than it is, by a tenth or so.
    """

    row: float
    column: float
    source: str


@dataclass(frozen=True)
class Radiograph:
    """A chest X-ray as the model is meant to see it.

    Attributes:
        pixels: float32 [H, W] in [0, 1], dense tissue bright, at the native size, laid as stored.
        spacing: Pixel spacing, or None where the file does not tell (PNG and its like).
        provenance: Facts of the reading for the result file, e.g. ``{"format": "PNG", "bits": 8}``;
            nothing of the patient.
        orientation: How the pixels lie in the patient; None where the file does not tell, and
            then the image is taken for upright.
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
