"""The preprocessing contract, shared by training, export and runtime.

A radiograph is resized to S x S (the aspect ratio is not kept: a chest fills its frame whatever
its shape) and its gray values are windowed between two percentiles of its content. Mean, standard
deviation and the three equal gray channels of SAM are folded into the network's patch embedding,
so this is all that a client in another language has to repeat.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLAT = 2 / 255
"""A row or column whose gray values span no more than this, in [0, 1], is border, not content."""


@dataclass(frozen=True)
class Preprocessing:
    """Parameters of the contract, stored in every checkpoint and model file.

    Attributes:
        size: Side S of the model input in pixels, a multiple of 16.
        low: Percentile of the content that becomes 0.
        high: Percentile of the content that becomes 1.
    """

    size: int
    low: float = 0.5
    high: float = 99.5

    def __post_init__(self) -> None:
        if self.size < 32 or self.size > 2048 or self.size % 16:
            raise ValueError(f"size {self.size} is not a multiple of 16 between 32 and 2048")
        if not 0 <= self.low < self.high <= 100:
            raise ValueError(f"percentiles {self.low}, {self.high} are not 0 <= low < high <= 100")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a checkpoint or a model card."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Preprocessing:
        """Rebuild from `to_dict`.

        Raises:
            ValueError, KeyError, TypeError: The data is not a preprocessing contract.
        """
        return cls(size=int(data["size"]), low=float(data["low"]), high=float(data["high"]))


def resize(pixels: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Resize float32 [H, W] to [size, size]: area average when shrinking, else bilinear."""
    # Imported here: a command imports it while the model loads.
    import cv2

    shrinks = min(pixels.shape) >= size
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    out = cv2.resize(pixels, (size, size), interpolation=method)
    return np.asarray(out, dtype=np.float32)


def window(pixels: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """Stretch gray values between two percentiles of the content to [0, 1], clipping outside.

    Flat rows and columns at the margins (collimator, film border, padding) do not count as
    content. An image without contrast becomes all zero.

    Args:
        pixels: float32 [H, W].
        low: Percentile that becomes 0.
        high: Percentile that becomes 1.

    Returns:
        float32 [H, W] in [0, 1].
    """
    span = float(pixels.max() - pixels.min())
    if span <= 0:
        return np.zeros_like(pixels)
    rows = np.flatnonzero(np.ptp(pixels, axis=1) > FLAT * span)
    columns = np.flatnonzero(np.ptp(pixels, axis=0) > FLAT * span)
    content = pixels
    if rows.size and columns.size:
        content = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    bottom, top = np.percentile(content, (low, high))
    if top - bottom <= 1e-6 * span:
        bottom, top = float(pixels.min()), float(pixels.max())
    scaled = (pixels - np.float32(bottom)) / np.float32(top - bottom)
    return np.asarray(np.clip(scaled, 0, 1), dtype=np.float32)


def preprocess(pixels: NDArray[np.float32], spec: Preprocessing) -> NDArray[np.float32]:
    """Turn a radiograph's pixels into the model input.

    Args:
        pixels: float32 [H, W], dense tissue bright; any linear gray scale.
        spec: The contract of the model at hand.

    Returns:
        float32 [S, S] in [0, 1], C-contiguous.
    """
    out = window(resize(pixels, spec.size), spec.low, spec.high)
    return np.ascontiguousarray(out, dtype=np.float32)
