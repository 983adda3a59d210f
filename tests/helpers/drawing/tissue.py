"""What a chest attenuates: soft tissue, bones, vessels, opacities and devices, summed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from helpers.drawing.anatomy import Anatomy, curve, ellipse, mirror, ribs, torso
from helpers.drawing.canvas import Canvas, Map, Points


def _bone(canvas: Canvas, paths: Sequence[Points], width: float) -> Map:
    """Return bands with a bright cortical rim."""
    whole = canvas.lines(paths, width)
    core = canvas.lines(paths, 0.62 * width)
    return canvas.blur(whole, 0.0022) - 0.38 * canvas.blur(core, 0.003)


def _vessels(
    rng: np.random.Generator, canvas: Canvas, a: Anatomy, hila: Sequence[tuple[float, float]]
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
        knot = ellipse(x + 0.004 * side, y, 0.02, 0.045, 0.35 * side * rng.uniform(0.3, 1.2))
        out += 0.55 * canvas.blur(canvas.fill(knot), 0.013)
    return out


def _spine(canvas: Canvas, a: Anatomy) -> Map:
    """Return the vertebral column with its disk spaces, about 0..1."""
    column = canvas.lines([np.array([[a.midline, -0.2], [a.midline, 1.3]])], 0.066)
    disks, arches = [], []
    y = -0.1
    while y < 1.2:
        pitch = 0.045 + 0.018 * max(y, 0)
        disks.append(np.array([[a.midline - 0.028, y], [a.midline + 0.028, y]]))
        arches.append(ellipse(a.midline - 0.021, y + pitch / 2, 0.006, 0.009))
        arches.append(ellipse(a.midline + 0.021, y + pitch / 2, 0.006, 0.009))
        y += pitch
    gaps = canvas.blur(canvas.lines(disks, 0.006), 0.003)
    rings = canvas.blur(canvas.lines(arches, 0.003), 0.002)
    trachea = canvas.lines([np.array([[a.midline, -0.2], [a.midline, a.apex + 0.2]])], 0.036)
    bone = canvas.blur(column, 0.004) - 0.4 * gaps + 0.35 * rings
    return np.asarray(bone - 0.8 * canvas.blur(trachea, 0.006), np.float32)


def _shoulders(rng: np.random.Generator, canvas: Canvas, a: Anatomy) -> Map:
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
        out += 0.95 * _bone(canvas, [mirror(curve(clavicle), side)], 0.026)
        head = ellipse(x + 0.025, y - lift + 0.055, 0.042, 0.045)
        out += 0.4 * canvas.blur(canvas.fill(mirror(head, side)), 0.006)
        shaft = np.array([[x + 0.045, y - lift + 0.07], [x + 0.17, y + 0.42]])
        out += 0.6 * _bone(canvas, [mirror(shaft, side)], 0.044)
        away = rng.uniform(-0.03, 0.05)
        blade = [
            (x - 0.01, y - lift + 0.03),
            (x - 0.055 + away, y + 0.03),
            (x - 0.115 + away, y + 0.13),
            (x - 0.075 + away, y + 0.31),
            (x - 0.05 + away, y + 0.29),
            (x - 0.02 + away / 2, y + 0.11),
        ]
        shape = canvas.fill(mirror(curve(blade), side))
        rim = canvas.lines([mirror(curve(blade), side)], 0.005)
        out += 0.22 * canvas.blur(shape, 0.004) + 0.3 * canvas.blur(rim, 0.002)
    return out


def _opacities(rng: np.random.Generator, canvas: Canvas, a: Anatomy) -> Map:
    """Return patchy consolidations and nodules, 0..1, in some chests only."""
    out = np.zeros((canvas.height, canvas.width), np.float32)
    clouds = canvas.clouds(rng, 24) + 0.7 * canvas.clouds(rng, 60)
    for _ in range(int(rng.choice([0, 0, 1, 2, 3]))):
        x = rng.choice([-1, 1]) * rng.uniform(0.35, 0.85) * a.half_width
        y = rng.uniform(a.apex + 0.1, a.base - 0.03)
        long, short, tilt = rng.uniform(0.03, 0.11), rng.uniform(0.03, 0.11), rng.uniform(0, 3)
        blob = canvas.fill(ellipse(x, y, long, short, tilt))
        out += rng.uniform(0.3, 0.9) * canvas.blur(blob, 0.025) * np.clip(0.75 + 0.3 * clouds, 0, 1)
    for _ in range(int(rng.choice([0, 0, 0, 1, 4]))):
        x = rng.choice([-1, 1]) * rng.uniform(0.3, 0.9) * a.half_width
        y = rng.uniform(a.apex + 0.08, a.base - 0.03)
        nodule = ellipse(x, y, rng.uniform(0.008, 0.02), rng.uniform(0.008, 0.02))
        out += 0.4 * canvas.blur(canvas.fill(nodule), 0.003)
    return np.clip(out, 0, 1)


def _devices(rng: np.random.Generator, canvas: Canvas, a: Anatomy) -> Map:
    """Return tubes, lines and electrodes, in some chests only."""
    paths: list[Points] = []
    widths: list[float] = []
    if rng.random() < 0.2:
        end = a.apex + rng.uniform(0.12, 0.2)
        paths.append(curve([(0.01, -0.1), (-0.004, a.apex), (0.0, end)]))
        widths.append(0.007)
    if rng.random() < 0.25:
        side = rng.choice([-1, 1])
        path = [(0.09, -0.1), (0.07, a.apex + 0.03), (0.035, a.apex + 0.14), (-0.035, 0.48)]
        paths.append(mirror(curve(path), side))
        widths.append(0.004)
    if rng.random() < 0.2:
        x, y = rng.uniform(-0.3, 0.3), rng.uniform(0.25, 0.8)
        paths.append(curve([(x, y), (x * 1.3 + 0.05, y + 0.1), (0.3, 0.9), (0.42, 1.2)]))
        widths.append(0.004)
        paths.append(ellipse(x, y, 0.007, 0.007))
        widths.append(0.008)
    return canvas.blur(canvas.lines(paths, widths), 0.0012)


@dataclass(frozen=True)
class Organs:
    """What fills the chest, each a map of 0..1.

    Attributes:
        lungs: Both halves of the chest down to the diaphragm, heart shadow included.
        upper: The upper mediastinum with the great vessels.
        heart: The heart.
    """

    lungs: Map
    upper: Map
    heart: Map


def attenuation(rng: np.random.Generator, canvas: Canvas, a: Anatomy, organs: Organs) -> Map:
    """Return the summed attenuation of everything, 0 in air."""
    lungs, heart = organs.lungs, organs.heart
    body = canvas.fill(torso(rng, a))
    middle = np.maximum(organs.upper, heart)
    y = a.base - 0.005

    out = (1.05 + 0.45 * a.habitus) * canvas.blur(canvas.depth(body, 0.055), 0.004)
    trunk = canvas.fill(ellipse(0, 0.95, a.half_width + 0.02, 0.55))
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
            shape = ellipse(side * 0.62 * a.half_width, a.base - 0.07, 0.135, 0.12)
            out += 0.16 * canvas.blur(canvas.fill(shape), 0.008)
    if rng.random() < 0.6:  # gas in the stomach
        size = rng.uniform(0.02, 0.05)
        gas = ellipse(0.5 * a.half_width, a.base + 0.09, 1.5 * size, size, rng.uniform(-0.4, 0.4))
        out -= 0.5 * canvas.blur(canvas.fill(gas), 0.006)

    posterior, anterior = ribs(rng, a)
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
