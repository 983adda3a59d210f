"""Phantoms: drawn images that look like frontal chest X-rays, with known lung masks.

Drawn as sums of attenuation (soft tissue, lungs, heart, bone) that an exposure curve turns into
gray values, so shadows overlap as they do on a film. Everything follows from the seed; the
anatomy does not depend on the size. numpy and OpenCV alone.

    python tests/phantoms.py OUT --train 20 --val 5 --test 5 --size 256
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]
Points = NDArray[np.float64]

RIGHT, LEFT = 1, 2
_SUB = 4  # fractional bits of OpenCV's drawing coordinates


@dataclass(frozen=True)
class Phantom:
    """A drawn chest X-ray.

    Attributes:
        image: uint8 [H, W], dense tissue bright.
        mask: uint8 [H, W]: 0 = no lung, 1 = right lung (left side of the image), 2 = left lung;
            lung fields, heart and mediastinum excluded.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]


class _Canvas:
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


def _curve(points: Sequence[tuple[float, float]], steps: int = 12) -> Points:
    """Return a Catmull-Rom spline through the points, open."""
    p = np.asarray(points, np.float64)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    parts = []
    for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:], strict=True):
        parts.append(
            b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
        )
    return np.concatenate([*parts, p[-2:-1]])


def _mirror(points: Points, side: int) -> Points:
    return points * (side, 1.0)


def _ellipse(x: float, y: float, a: float, b: float, tilt: float = 0.0) -> Points:
    t = np.linspace(0, 2 * np.pi, 60)
    u, v = a * np.cos(t), b * np.sin(t)
    cos, sin = np.cos(tilt), np.sin(tilt)
    return np.stack([x + cos * u - sin * v, y + sin * u + cos * v], 1)


@dataclass(frozen=True)
class _Anatomy:
    """Measures of one chest, in chest heights."""

    half_width: float
    apex: float
    base: float
    heart: float
    midline: float
    habitus: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> _Anatomy:
        return cls(
            half_width=rng.uniform(0.30, 0.385),
            apex=rng.uniform(0.10, 0.16),
            base=rng.uniform(0.74, 0.84),
            heart=rng.uniform(0.8, 1.3),
            midline=rng.normal(0, 0.006),
            habitus=rng.uniform(0.0, 1.0),
        )


def _lung(rng: np.random.Generator, a: _Anatomy, side: int) -> Points:
    """Return the outline of one hemithorax down to the diaphragm, heart shadow included."""
    w, top, base = a.half_width, a.apex + rng.normal(0, 0.008), a.base
    if side > 0:
        base += rng.uniform(0.0, 0.03)  # the patient's left dome (image right) stands lower
    tall = base - top
    j = rng.normal(0, 0.008, 8)
    angle = base + rng.uniform(0.02, 0.045)
    lateral = [
        (0.045, top + 0.055),
        (0.075 + j[0], top + 0.012),
        (0.30 * w + 0.01 + j[0], top),
        (0.56 * w + j[1], top + 0.06 * tall),
        (0.79 * w + j[2], top + 0.24 * tall),
        (0.93 * w + j[3] / 2, top + 0.50 * tall),
        (0.995 * w + j[4] / 2, top + 0.77 * tall),
        (1.0 * w, angle),
    ]
    dome = rng.uniform(0.055, 0.10)
    peak = rng.uniform(0.40, 0.55) * w
    floor = [
        (1.0 * w, angle),
        (0.86 * w, angle - 0.55 * dome - 0.008),
        ((peak + 0.86 * w) / 2, angle - 0.90 * dome - 0.012),
        (peak, angle - dome - 0.016 + j[5] / 4),
        (0.5 * peak, angle - 0.93 * dome - 0.012 + j[6] / 4),
        (0.02, angle - 0.7 * dome),
    ]
    return _mirror(np.concatenate([_curve(lateral), _curve(floor)]), side)


def _mediastinum(rng: np.random.Generator, a: _Anatomy) -> tuple[Points, Points]:
    """Return the outlines of the upper mediastinum with the great vessels, and of the heart."""
    m = a.midline
    j = rng.normal(0, 0.004, 12)
    knob = rng.uniform(0.05, 0.078)
    knob_y = a.apex + rng.uniform(0.17, 0.21)
    low = a.base + 0.06
    right = [
        (m - 0.055 + j[0], -0.1),
        (m - 0.050 + j[1], a.apex),
        (m - 0.048 + j[2], knob_y - 0.06),
        (m - 0.056 + j[3], knob_y + 0.06),
        (m - 0.062 + j[4], knob_y + 0.16),
        (m - 0.055, low),
    ]
    left = [
        (m + 0.045, low),
        (m + 0.066 + j[5], knob_y + 0.19),
        (m + 0.066 + j[6], knob_y + 0.10),
        (m + 0.052 + j[7], knob_y + 0.045),
        (m + knob, knob_y + 0.005),
        (m + 0.052 + j[8], knob_y - 0.05),
        (m + 0.052 + j[9], a.apex),
        (m + 0.058, -0.1),
    ]
    size = a.heart
    high, foot = knob_y + 0.10, a.base + rng.uniform(-0.005, 0.02)
    tall = foot - high
    lv = 0.148 * size
    heart = [
        (m + 0.045, high),
        (m + 0.072 + 0.02 * (size - 1) + j[10], high + 0.18 * tall),
        (m + 0.7 * lv, high + 0.42 * tall),
        (m + 0.95 * lv + j[11], high + 0.68 * tall),
        (m + lv, high + 0.86 * tall),
        (m + 0.78 * lv, foot + 0.01),
        (m + 0.2 * lv, foot + 0.035),
        (m - 0.055 * size, foot + 0.01),
        (m - 0.082 * size, high + 0.82 * tall),
        (m - 0.080 * size, high + 0.55 * tall),
        (m - 0.055, high + 0.22 * tall),
        (m + 0.0, high),
    ]
    return np.concatenate([_curve(right), _curve(left)]), _curve(heart)


def _torso(rng: np.random.Generator, a: _Anatomy) -> Points:
    """Return the outline of neck, shoulders, upper arms and trunk."""
    fat = 0.035 + 0.065 * a.habitus
    shoulder = a.apex + rng.uniform(-0.03, 0.05)
    arms = rng.uniform(-0.03, 0.10)
    w = a.half_width + fat
    half = [
        (0.085 + 0.03 * a.habitus, -0.25),
        (0.095 + 0.03 * a.habitus, shoulder - 0.12),
        (0.17, shoulder - 0.075),
        (0.30, shoulder - 0.05),
        (w + 0.11, shoulder - 0.02),
        (w + 0.20 + arms, shoulder + 0.07),
        (w + 0.26 + 1.6 * arms, shoulder + 0.30),
        (w + 0.17 + arms, shoulder + 0.46),
        (w + 0.09 + arms / 2, shoulder + 0.40),
        (w + 0.015, shoulder + 0.37),
        (w - 0.005, shoulder + 0.48),
        (w, 0.7),
        (w + 0.005 + 0.02 * a.habitus, 0.9),
        (w + 0.01 + 0.03 * a.habitus, 1.3),
    ]
    side = _curve(half)
    return np.concatenate([side, _mirror(side, -1)[::-1]])


def _ribs(rng: np.random.Generator, a: _Anatomy) -> tuple[list[Points], list[Points]]:
    """Return the midlines of the posterior and of the anterior ribs, both sides."""
    posterior, anterior = [], []
    step = (a.base - a.apex) / rng.uniform(7.4, 8.6)
    start = a.apex - 0.01
    slope = rng.uniform(0.085, 0.15)
    for side in (-1, 1):
        for i in range(11):
            y = start + i * step + rng.normal(0, 0.003)
            reach = a.half_width * min(1.02, 0.62 + 0.10 * i) + 0.008
            drop = slope * (0.6 + 0.07 * i)
            path = [
                (0.03, y + 0.022),
                (0.25 * reach, y - 0.004),
                (0.55 * reach, y + 0.10 * drop),
                (0.85 * reach, y + 0.65 * drop),
                (reach, y + 1.5 * drop),
                (0.985 * reach, y + 2.3 * drop),
            ]
            posterior.append(_mirror(_curve(path), side))
            if i < 8:
                front = [
                    (reach, y + 1.5 * drop),
                    (0.97 * reach, y + 2.3 * drop),
                    (0.80 * reach, y + 3.1 * drop),
                    (0.52 * reach, y + 3.8 * drop),
                    (0.34 * reach + 0.01, y + 3.9 * drop),
                ]
                anterior.append(_mirror(_curve(front), side))
    return posterior, anterior


def _bone(canvas: _Canvas, paths: Sequence[Points], width: float) -> Map:
    """Return bands with a bright cortical rim."""
    whole = canvas.lines(paths, width)
    core = canvas.lines(paths, 0.62 * width)
    return canvas.blur(whole, 0.0022) - 0.38 * canvas.blur(core, 0.003)


def _vessels(
    rng: np.random.Generator, canvas: _Canvas, a: _Anatomy, hila: Sequence[tuple[float, float]]
) -> Map:
    """Return the branching vessels of both lungs, about 0..1."""
    paths: list[Points] = []
    widths: list[float] = []

    def grow(x: float, y: float, heading: float, length: float, width: float) -> None:
        xs, ys = [x], [y]
        for _ in range(5):
            heading += rng.normal(0, 0.13)
            x += np.cos(heading) * length / 5
            y += np.sin(heading) * length / 5
            xs.append(x)
            ys.append(y)
        paths.append(np.stack([xs, ys], 1))
        widths.append(width)
        if width > 0.0013:
            spread = rng.uniform(0.25, 0.55)
            grow(x, y, heading + spread, 0.78 * length, 0.66 * width)
            grow(x, y, heading - spread, 0.78 * length, 0.66 * width)

    for side, (x, y) in zip((-1, 1), hila, strict=True):
        for lift in np.linspace(-1.25, 1.35, 7):
            heading = lift if side > 0 else np.pi - lift
            length = rng.uniform(0.07, 0.11)
            grow(x, y, heading + rng.normal(0, 0.1), length, rng.uniform(0.004, 0.008))
    # Widest first, so that a thin faint branch does not paint over its trunk.
    order = np.argsort(widths)
    tree = canvas.lines([paths[i] for i in order], [widths[i] for i in order])
    soft = canvas.blur(tree, 0.0022)
    out = 0.6 * soft + 0.6 * canvas.blur(tree, 0.006)
    for side, (x, y) in zip((-1, 1), hila, strict=True):
        knot = _ellipse(x + 0.004 * side, y, 0.02, 0.045, 0.35 * side * rng.uniform(0.3, 1.2))
        out += 0.55 * canvas.blur(canvas.fill(knot), 0.013)
    return out


def _spine(canvas: _Canvas, a: _Anatomy) -> Map:
    """Return the vertebral column with its disk spaces, about 0..1."""
    column = canvas.lines([np.array([[a.midline, -0.2], [a.midline, 1.3]])], 0.066)
    disks, arches = [], []
    y = -0.1
    while y < 1.2:
        pitch = 0.045 + 0.018 * max(y, 0)
        disks.append(np.array([[a.midline - 0.028, y], [a.midline + 0.028, y]]))
        arches.append(_ellipse(a.midline - 0.021, y + pitch / 2, 0.006, 0.009))
        arches.append(_ellipse(a.midline + 0.021, y + pitch / 2, 0.006, 0.009))
        y += pitch
    gaps = canvas.blur(canvas.lines(disks, 0.006), 0.003)
    rings = canvas.blur(canvas.lines(arches, 0.003), 0.002)
    trachea = canvas.lines([np.array([[a.midline, -0.2], [a.midline, a.apex + 0.2]])], 0.036)
    bone = canvas.blur(column, 0.004) - 0.4 * gaps + 0.35 * rings
    return np.asarray(bone - 0.8 * canvas.blur(trachea, 0.006), np.float32)


def _shoulders(rng: np.random.Generator, canvas: _Canvas, a: _Anatomy) -> Map:
    """Return clavicles, shoulder blades and the heads of the upper arms, about 0..1."""
    out = np.zeros((canvas.height, canvas.width), np.float32)
    for side in (-1, 1):
        y = a.apex + rng.uniform(0.045, 0.085)
        lift = rng.uniform(0.02, 0.07)
        x = a.half_width + 0.09
        clavicle = [
            (0.032, y + 0.012),
            (0.10, y - 0.004),
            (0.45 * x, y - 0.45 * lift),
            (0.78 * x, y - 0.95 * lift),
            (x - 0.01, y - lift),
        ]
        out += 0.95 * _bone(canvas, [_mirror(_curve(clavicle), side)], 0.026)
        head = _ellipse(x + 0.025, y - lift + 0.055, 0.042, 0.045)
        out += 0.4 * canvas.blur(canvas.fill(_mirror(head, side)), 0.006)
        shaft = np.array([[x + 0.045, y - lift + 0.07], [x + 0.17, y + 0.42]])
        out += 0.6 * _bone(canvas, [_mirror(shaft, side)], 0.044)
        away = rng.uniform(-0.03, 0.05)
        blade = [
            (x - 0.01, y - lift + 0.03),
            (x - 0.055 + away, y + 0.03),
            (x - 0.115 + away, y + 0.13),
            (x - 0.075 + away, y + 0.31),
            (x - 0.05 + away, y + 0.29),
            (x - 0.02 + away / 2, y + 0.11),
        ]
        shape = canvas.fill(_mirror(_curve(blade), side))
        rim = canvas.lines([_mirror(_curve(blade), side)], 0.005)
        out += 0.22 * canvas.blur(shape, 0.004) + 0.3 * canvas.blur(rim, 0.002)
    return out


def _opacities(rng: np.random.Generator, canvas: _Canvas, a: _Anatomy) -> Map:
    """Return patchy consolidations and nodules, 0..1, in some chests only."""
    out = np.zeros((canvas.height, canvas.width), np.float32)
    clouds = canvas.clouds(rng, 24) + 0.7 * canvas.clouds(rng, 60)
    for _ in range(int(rng.choice([0, 0, 1, 2, 3]))):
        x = rng.choice([-1, 1]) * rng.uniform(0.35, 0.85) * a.half_width
        y = rng.uniform(a.apex + 0.1, a.base - 0.03)
        long, short, tilt = rng.uniform(0.03, 0.11), rng.uniform(0.03, 0.11), rng.uniform(0, 3)
        blob = canvas.fill(_ellipse(x, y, long, short, tilt))
        out += rng.uniform(0.3, 0.9) * canvas.blur(blob, 0.025) * np.clip(0.75 + 0.3 * clouds, 0, 1)
    for _ in range(int(rng.choice([0, 0, 0, 1, 4]))):
        x = rng.choice([-1, 1]) * rng.uniform(0.3, 0.9) * a.half_width
        y = rng.uniform(a.apex + 0.08, a.base - 0.03)
        nodule = _ellipse(x, y, rng.uniform(0.008, 0.02), rng.uniform(0.008, 0.02))
        out += 0.4 * canvas.blur(canvas.fill(nodule), 0.003)
    return np.clip(out, 0, 1)


def _devices(rng: np.random.Generator, canvas: _Canvas, a: _Anatomy) -> Map:
    """Return tubes, lines and electrodes, in some chests only."""
    paths: list[Points] = []
    widths: list[float] = []
    if rng.random() < 0.2:
        end = a.apex + rng.uniform(0.12, 0.2)
        paths.append(_curve([(0.01, -0.1), (-0.004, a.apex), (0.0, end)]))
        widths.append(0.007)
    if rng.random() < 0.25:
        side = rng.choice([-1, 1])
        path = [(0.09, -0.1), (0.07, a.apex + 0.03), (0.035, a.apex + 0.14), (-0.035, 0.48)]
        paths.append(_mirror(_curve(path), side))
        widths.append(0.004)
    if rng.random() < 0.2:
        x, y = rng.uniform(-0.3, 0.3), rng.uniform(0.25, 0.8)
        paths.append(_curve([(x, y), (x * 1.3 + 0.05, y + 0.1), (0.3, 0.9), (0.42, 1.2)]))
        widths.append(0.004)
        paths.append(_ellipse(x, y, 0.007, 0.007))
        widths.append(0.008)
    return canvas.blur(canvas.lines(paths, widths), 0.0012)


def _attenuation(
    rng: np.random.Generator, canvas: _Canvas, a: _Anatomy, lungs: Map, upper: Map, heart: Map
) -> Map:
    """Return the summed attenuation of everything, 0 in air."""
    body = canvas.fill(_torso(rng, a))
    middle = np.maximum(upper, heart)
    y = a.base - 0.005

    out = (1.05 + 0.45 * a.habitus) * canvas.blur(canvas.depth(body, 0.055), 0.004)
    trunk = canvas.fill(_ellipse(0, 0.95, a.half_width + 0.02, 0.55))
    out += (0.35 + 0.2 * a.habitus) * canvas.blur(trunk, 0.10) * body
    belly = canvas.blur(canvas.fill(np.array([[-2, y], [2, y], [2, 3], [-2, 3.0]])), 0.025)
    neck = canvas.blur(canvas.fill(np.array([[-2, -1], [2, -1], [2, a.apex], [-2, a.apex]])), 0.05)
    middle *= (1 - 0.9 * belly) * (1 - 0.75 * neck)
    air = canvas.blur(lungs, 0.0022) * (0.45 + 0.55 * canvas.depth(lungs, 0.035))
    out -= (0.86 + 0.33 * a.habitus) * air
    out += rng.uniform(0.42, 0.62) * canvas.blur(middle, 0.0035) * canvas.blur(body, 0.01)
    out += 0.32 * canvas.blur(heart, 0.02) * (1 - 0.9 * belly)
    out += 0.25 * belly * body
    if rng.random() < 0.4:  # breast shadows
        for side in (-1, 1):
            shape = _ellipse(side * 0.62 * a.half_width, a.base - 0.07, 0.135, 0.12)
            out += 0.16 * canvas.blur(canvas.fill(shape), 0.008)
    if rng.random() < 0.6:  # gas in the stomach
        size = rng.uniform(0.02, 0.05)
        gas = _ellipse(0.5 * a.half_width, a.base + 0.09, 1.5 * size, size, rng.uniform(-0.4, 0.4))
        out -= 0.5 * canvas.blur(canvas.fill(gas), 0.006)

    posterior, anterior = _ribs(rng, a)
    # Below the diaphragm the liver leaves little contrast to bones.
    cage = canvas.blur(body, 0.01) * (1 - 0.6 * belly)
    bones = rng.uniform(0.45, 1.15)
    out += bones * 0.33 * _bone(canvas, posterior, 0.029) * cage
    out += bones * 0.15 * _bone(canvas, anterior, 0.030) * cage
    out += 0.30 * _spine(canvas, a) * cage
    out += 0.38 * _shoulders(rng, canvas, a) * cage
    hila = [(a.midline - 0.085, 0.455 + rng.normal(0, 0.01)), (a.midline + 0.09, 0.44)]
    inside = canvas.blur(lungs, 0.004)
    out += rng.uniform(0.16, 0.34) * _vessels(rng, canvas, a, hila) * inside
    out += 0.6 * _opacities(rng, canvas, a) * inside
    texture = canvas.clouds(rng, 90) + canvas.clouds(rng, 40) + canvas.clouds(rng, 12)
    out += 0.018 * texture * canvas.blur(body, 0.006)
    return np.maximum(out + 0.9 * _devices(rng, canvas, a), 0)


def _expose(rng: np.random.Generator, canvas: _Canvas, attenuation: Map) -> Map:
    """Return gray values in [0, 1] as a detector and its processing would give them."""
    row, column = np.mgrid[-1 : 1 : canvas.height * 1j, -1 : 1 : canvas.width * 1j]
    tilt = rng.normal(0, 0.05, 2)
    field = attenuation + (tilt[0] * row + tilt[1] * column).astype(np.float32)
    gray = 1 - np.exp(-rng.uniform(1.0, 1.7) * np.maximum(field, 0))
    gray = gray ** rng.uniform(0.9, 1.6)
    low = rng.uniform(0.0, 0.10)
    return np.asarray(low + (rng.uniform(0.86, 0.98) - low) * gray, np.float32)


def _finish(
    rng: np.random.Generator, canvas: _Canvas, gray: Map
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the image with marker, blur, noise and collimator, and where the beam passed."""
    height, width = gray.shape
    sharpness = rng.uniform(0.0008, 0.0022)
    noise = rng.uniform(0.004, 0.018)
    marker = rng.random() < 0.7
    letter = "R" if rng.random() < 0.5 else "L"
    place = rng.uniform(0.05, 0.12, 2)
    edges = rng.uniform(0.0, 0.05, 4) * (rng.random(4) < 0.3)
    gray = canvas.blur(gray, sharpness)
    if marker:
        scale = height / 700
        x = place[0] if letter == "R" else 1 - place[0] - 0.03
        at = (int(x * width), int((place[1] + 0.03) * height))
        thick = max(1, round(2 * scale))
        ink = np.zeros(gray.shape, np.uint8)
        cv2.putText(ink, letter, at, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thick, cv2.LINE_AA)
        gray = np.maximum(gray, ink.astype(np.float32) / 255)
    gray = gray + noise * rng.standard_normal(gray.shape).astype(np.float32)
    top, bottom, left, right = (edges * (height, height, width, width)).astype(int)
    open_field = np.zeros(gray.shape, np.bool_)
    open_field[top : height - bottom, left : width - right] = True
    gray = np.where(open_field, gray, 0.01)
    return np.clip(np.round(gray * 255), 0, 255).astype(np.uint8), open_field


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest connected part of a mask."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return mask
    return np.asarray(parts == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])))


def blocks(height: int = 120, width: int = 100, left_lung: bool = True) -> NDArray[np.uint8]:
    """Bright body with two dark lungs."""
    pixels = np.full((height, width), 220, np.uint8)
    top, bottom = height // 5, height * 4 // 5
    pixels[top:bottom, width // 10 : width * 2 // 5] = 20
    if left_lung:
        pixels[top:bottom, width * 3 // 5 : width * 9 // 10] = 20
    return pixels


def draw(seed: int, size: int | tuple[int, int] = 512) -> Phantom:
    """Draw a chest X-ray.

    Args:
        seed: Everything follows from it; not negative.
        size: Side in pixels, or (height, width); 48 at least.

    Returns:
        The image and its label mask, both uint8 [H, W].

    Raises:
        ValueError: The size is too small to draw in.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 48:
        raise ValueError(f"size {height} x {width} is below 48 pixels")
    rng = np.random.default_rng(seed)
    canvas = _Canvas(rng, height, width)
    anatomy = _Anatomy.sample(rng)
    hemithorax = [canvas.fill(_lung(rng, anatomy, side)) for side in (-1, 1)]
    upper, heart = (canvas.fill(shape) for shape in _mediastinum(rng, anatomy))
    middle = np.maximum(upper, heart) > 0.5

    mask = np.zeros((height, width), np.uint8)
    for label, plane in zip((RIGHT, LEFT), hemithorax, strict=True):
        mask[_largest((plane > 0.5) & ~middle)] = label

    attenuation = _attenuation(rng, canvas, anatomy, np.maximum(*hemithorax), upper, heart)
    image, open_field = _finish(rng, canvas, _expose(rng, canvas, attenuation))
    mask[~open_field] = 0
    return Phantom(image, mask)


def write_dataset(out: Path, counts: dict[str, int], size: int, seed: int) -> None:
    """Write OUT/{split}/{images,masks}/phantom_0000.png for each split.

    Args:
        out: Folder to write to, made where needed.
        counts: Split name -> number of phantoms.
        size: Side in pixels.
        seed: Seed of the first phantom; the others follow by one, none used twice.

    Raises:
        OSError: A file cannot be written.
    """
    for split, count in counts.items():
        images, masks = out / split / "images", out / split / "masks"
        images.mkdir(parents=True, exist_ok=True)
        masks.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            phantom = draw(seed, size)
            seed += 1
            for path, plane in ((images, phantom.image), (masks, phantom.mask)):
                file = path / f"phantom_{number:04d}.png"
                if not cv2.imwrite(str(file), plane):
                    raise OSError(f"{file}: cannot write")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a data set of phantoms from the command line."""
    parser = argparse.ArgumentParser(
        description="Draw X-ray-like images with lung masks (label maps: 0, 1 = right lung, "
        "2 = left lung) as OUT/{train,val,test}/{images,masks}/phantom_0000.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    parser.add_argument("--train", type=int, default=20, metavar="N", help="training images")
    parser.add_argument("--val", type=int, default=5, metavar="N", help="validation images")
    parser.add_argument("--test", type=int, default=5, metavar="N", help="test images")
    parser.add_argument("--size", type=int, default=256, metavar="PX", help="side in pixels")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first phantom")
    options = parser.parse_args(arguments)
    if min(options.train, options.val, options.test, options.seed) < 0 or options.size < 48:
        parser.error("counts and seed must not be negative, the size 48 or more")
    counts = {"train": options.train, "val": options.val, "test": options.test}
    write_dataset(options.out, counts, options.size, options.seed)


if __name__ == "__main__":
    main()
