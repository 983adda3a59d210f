"""The outlines of one chest: lungs, heart, trunk and ribs, drawn from a few measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from helpers.drawing.canvas import Points


def curve(points: Sequence[tuple[float, float]], steps: int = 12) -> Points:
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


def mirror(points: Points, side: int) -> Points:
    """Return the points of one side of the chest: 1 as they are, -1 on the other side."""
    return points * (side, 1.0)


def ellipse(x: float, y: float, a: float, b: float, tilt: float = 0.0) -> Points:
    t = np.linspace(0, 2 * np.pi, 60)
    u, v = a * np.cos(t), b * np.sin(t)
    cos, sin = np.cos(tilt), np.sin(tilt)
    return np.stack([x + cos * u - sin * v, y + sin * u + cos * v], 1)


@dataclass(frozen=True)
class Anatomy:
    """Measures of one chest, in chest heights."""

    half_width: float
    apex: float
    base: float
    heart: float
    midline: float
    habitus: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Anatomy:
        return cls(
            half_width=rng.uniform(0.30, 0.385),
            apex=rng.uniform(0.10, 0.16),
            base=rng.uniform(0.74, 0.84),
            heart=rng.uniform(0.8, 1.3),
            midline=rng.normal(0, 0.006),
            habitus=rng.uniform(0.0, 1.0),
        )


def lung(rng: np.random.Generator, a: Anatomy, side: int) -> Points:
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
    return mirror(np.concatenate([curve(lateral), curve(floor)]), side)


def mediastinum(rng: np.random.Generator, a: Anatomy) -> tuple[Points, Points]:
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
    return np.concatenate([curve(right), curve(left)]), curve(heart)


def torso(rng: np.random.Generator, a: Anatomy) -> Points:
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
    side = curve(half)
    return np.concatenate([side, mirror(side, -1)[::-1]])


def ribs(rng: np.random.Generator, a: Anatomy) -> tuple[list[Points], list[Points]]:
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
            posterior.append(mirror(curve(path), side))
            if i < 8:
                front = [
                    (reach, y + 1.5 * drop),
                    (0.97 * reach, y + 2.3 * drop),
                    (0.80 * reach, y + 3.1 * drop),
                    (0.52 * reach, y + 3.8 * drop),
                    (0.34 * reach + 0.01, y + 3.9 * drop),
                ]
                anterior.append(mirror(curve(front), side))
    return posterior, anterior
