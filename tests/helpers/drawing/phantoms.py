"""Phantoms: drawn images that look like frontal chest X-rays, with known lung masks.

Drawn as sums of attenuation (soft tissue, lungs, heart, bone) that an exposure curve turns into
gray values, so shadows overlap as they do on a film. Everything follows from the seed; the
anatomy does not depend on the size. numpy and OpenCV alone.

    PYTHONPATH=tests python -m helpers.drawing.phantoms OUT --train 20 --val 5 --test 5 --size 256
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from helpers.drawing.anatomy import Anatomy, lung, mediastinum
from helpers.drawing.canvas import Canvas, Map
from helpers.drawing.tissue import Organs, attenuation

RIGHT, LEFT = 1, 2


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


def _expose(rng: np.random.Generator, canvas: Canvas, attenuation: Map) -> Map:
    """Return gray values in [0, 1] as a detector and its processing would give them."""
    row, column = np.mgrid[-1 : 1 : canvas.height * 1j, -1 : 1 : canvas.width * 1j]
    tilt = rng.normal(0, 0.05, 2)
    field = attenuation + (tilt[0] * row + tilt[1] * column).astype(np.float32)
    gray = 1 - np.exp(-rng.uniform(1.0, 1.7) * np.maximum(field, 0))
    gray = gray ** rng.uniform(0.9, 1.6)
    low = rng.uniform(0.0, 0.10)
    return np.asarray(low + (rng.uniform(0.86, 0.98) - low) * gray, np.float32)


def _finish(
    rng: np.random.Generator, canvas: Canvas, gray: Map
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
    canvas = Canvas(rng, height, width)
    anatomy = Anatomy.sample(rng)
    hemithorax = [canvas.fill(lung(rng, anatomy, side)) for side in (-1, 1)]
    upper, heart = (canvas.fill(shape) for shape in mediastinum(rng, anatomy))
    middle = np.maximum(upper, heart) > 0.5

    mask = np.zeros((height, width), np.uint8)
    for label, plane in zip((RIGHT, LEFT), hemithorax, strict=True):
        mask[_largest((plane > 0.5) & ~middle)] = label

    organs = Organs(np.maximum(*hemithorax), upper, heart)
    film = attenuation(rng, canvas, anatomy, organs)
    image, open_field = _finish(rng, canvas, _expose(rng, canvas, film))
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
