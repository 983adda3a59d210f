"""X-rays to verify an export on: a folder of the user's, or drawn chests."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.readers import find_images, read
from cxrseg.trainer.data.samples import spread

SYNTHETIC_IMAGES = 8

MOST_IMAGES = 32
"""Images of a folder that are used, spread evenly over it."""


def verification_images(folder: Path | None) -> tuple[list[NDArray[np.float32]], str]:
    """Return radiographs to verify on, at most `MOST_IMAGES`, and what they are.

    Raises:
        CxrsegError: The folder holds no readable image.
    """
    if folder is None:
        return synthetic_radiographs(SYNTHETIC_IMAGES), f"{SYNTHETIC_IMAGES} synthetic images"
    paths = spread(find_images([folder]), MOST_IMAGES)
    return [read(path).content for path in paths], f"{len(paths)} images of {folder.name}"


def synthetic_radiographs(count: int, seed: int = 0) -> list[NDArray[np.float32]]:
    """Draw simple chests, for a verification without patient data.

    Two dark lungs beside a bright middle, with ribs, gradients and noise; not for training.

    Returns:
        float32 [256, 256] images in [0, 1].
    """
    rng = np.random.default_rng(seed)
    side = 256
    y, x = np.mgrid[:side, :side] / side
    images = []
    for _ in range(count):
        image = 0.7 + 0.2 * rng.normal() * (y - 0.5) + 0.05 * np.sin(40 * y + 6 * np.abs(x - 0.5))
        for middle in (0.3, 0.7):
            cx, cy = middle + 0.02 * rng.normal(), 0.45 + 0.03 * rng.normal()
            width, height = rng.uniform(0.12, 0.17), rng.uniform(0.26, 0.34)
            inside = ((x - cx) / width) ** 2 + ((y - cy) / height) ** 2
            image -= 0.45 / (1 + np.exp(12 * (inside - 1)))
        noise = cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), 2)
        image += rng.uniform(0.02, 0.06) * noise
        images.append(np.clip(image, 0, 1).astype(np.float32))
    return images
