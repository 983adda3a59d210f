"""A drawn X-ray with its mask, as files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrseg.trainer.data.samples import (
    Sample,
)

Gray = NDArray[np.uint8]


SIZE = (60, 50)


def save(path: Path, pixels: Gray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def xray() -> Gray:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.asarray((3 * y + x) % 256, np.uint8)


def two_lungs(right: int = 1, left: int = 1) -> Gray:
    mask = np.zeros(SIZE, np.uint8)
    mask[10:50, 5:20] = right
    mask[10:50, 28:45] = left
    return mask


def sample_of(folder: Path, mask: Gray | None = None, protocol: Any = "fields") -> Sample:
    image = save(folder / "x.png", xray())
    labels = save(folder / "m.png", two_lungs(1, 2) if mask is None else mask)
    return Sample(image, labels, "train", protocol, "g")


Row = dict[str, str]


def row(number: int = 0, split: str = "train", **more: str) -> Row:
    return {"image": f"x{number}.png", "mask": f"m{number}.png", "split": split, **more}


Table = Callable[..., Path]
