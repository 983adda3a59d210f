"""Drawing in chest coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]
Points = NDArray[np.float64]

_SUB = 4  # fractional bits of OpenCV's drawing coordinates


class Canvas:
    """Draws in chest coordinates: x = 0 at the midline, y from 0 (top) to 1, the frame's height.

    All maps are float32 [H, W].
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.height, self.width = height, width
        # A frame far from square is not filled: the chest keeps a human shape.
        zoom = rng.uniform(0.92, 1.12)
        self.scale_x = min(width, 1.25 * height) * zoom * rng.uniform(0.94, 1.06)
        self.scale_y = min(height, 1.25 * width) * zoom
        self.shift = (rng.uniform(-0.025, 0.025), rng.uniform(-0.005, 0.045))
        self.angle = np.deg2rad(rng.normal(0, 2))
        self.unit = float(np.sqrt(self.scale_x * self.scale_y))

    def _pixels(self, points: Points) -> NDArray[np.int32]:
        x, y = points[:, 0], points[:, 1] - 0.5
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        column = (cos * x - sin * y + self.shift[0]) * self.scale_x + self.width / 2
        row = (sin * x + cos * y + self.shift[1]) * self.scale_y + self.height / 2
        return np.round(np.stack([column, row], 1) * (1 << _SUB)).astype(np.int32)

    def fill(self, points: Points) -> Map:
        """Return a polygon's coverage in [0, 1]."""
        out = np.zeros((self.height, self.width), np.uint8)
        cv2.fillPoly(out, [self._pixels(points)], 255, cv2.LINE_AA, _SUB)
        return np.asarray(out / 255, np.float32)

    def lines(self, paths: Sequence[Points], width: float | Sequence[float]) -> Map:
        """Return the coverage in [0, 1] of open paths of the given width."""
        out = np.zeros((self.height, self.width), np.uint8)
        widths = [width] * len(paths) if isinstance(width, float) else list(width)
        for path, each in zip(paths, widths, strict=True):
            thickness = max(1, round(each * self.unit))
            value = min(255, round(255 * max(each * self.unit, 0.15)))
            cv2.polylines(out, [self._pixels(path)], False, value, thickness, cv2.LINE_AA, _SUB)
        return np.asarray(out / 255, np.float32)

    def blur(self, plane: Map, sigma: float) -> Map:
        """Return the map blurred by sigma, in chest heights."""
        return np.asarray(cv2.GaussianBlur(plane, (0, 0), max(sigma * self.unit, 0.3)), np.float32)

    def depth(self, plane: Map, reach: float) -> Map:
        """Return how deep inside a shape a pixel lies: 0 at its edge, near 1 beyond `reach`."""
        inside = cv2.distanceTransform((plane > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
        return np.asarray(1 - np.exp(-inside / (reach * self.unit)), np.float32)

    def clouds(self, rng: np.random.Generator, cells: int) -> Map:
        """Return smooth noise, about standard normal, with `cells` cells a side."""
        coarse = rng.standard_normal((cells, cells)).astype(np.float32)
        out = cv2.resize(coarse, (self.width, self.height), interpolation=cv2.INTER_CUBIC)
        return np.asarray(out, np.float32)
