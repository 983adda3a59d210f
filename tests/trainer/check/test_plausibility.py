"""What looks wrong about a mask, seen on phantoms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cxrseg.trainer.check.plausibility import EXCHANGED, INVERTED, oddities
from helpers.drawing import phantoms

SIZE = (160, 150)
SEEDS = range(12)

Labels = NDArray[np.uint8]
Pixels = NDArray[np.float32]


def pair(seed: int) -> tuple[Labels, Pixels]:
    phantom = phantoms.draw(seed, SIZE)
    return phantom.mask, (phantom.image / 255).astype(np.float32)


def seen(change: Callable[[Labels, Pixels], tuple[Any, Any]], is_map: bool) -> list[str]:
    """Return what is found of all phantoms after a change, joined for each."""
    found = []
    for seed in SEEDS:
        labels, pixels = change(*pair(seed))
        labels = np.ascontiguousarray(labels, np.uint8)
        found.append("; ".join(oddities(labels, np.asarray(pixels, np.float32), is_map)))
    return found


@pytest.mark.parametrize("is_map", [True, False])
def test_nothing_is_odd_about_sound_pairs(is_map: bool) -> None:
    assert seen(lambda labels, pixels: (labels, pixels), is_map) == [""] * len(SEEDS)
    assert seen(lambda labels, pixels: ((labels > 0), pixels), is_map=False) == [""] * len(SEEDS)


FAULTS: dict[str, tuple[str, Callable[[Labels, Pixels], tuple[Any, Any]]]] = {
    "inverted": (INVERTED, lambda labels, pixels: (labels == 0, pixels)),
    "upside down": ("upside down", lambda labels, pixels: (labels[::-1], pixels)),
    "half turn": ("turned by 180 degrees", lambda labels, pixels: (labels[::-1, ::-1], pixels)),
    "turned X-ray": ("turned by 180 degrees", lambda labels, pixels: (labels, pixels[::-1, ::-1])),
    "mirrored": ("mirrored", lambda labels, pixels: (labels[:, ::-1], pixels)),
    "negative": ("brighter than what surrounds", lambda labels, pixels: (labels, 1 - pixels)),
    "swapped": ("brighter than what surrounds", lambda labels, pixels: (labels, labels > 0)),
    "one lung": ("one half of the image", lambda labels, pixels: (labels == 2, pixels)),
    "specks": ("much less or more", lambda labels, pixels: (dots(labels), pixels)),
    "all of it": ("much less or more", lambda labels, pixels: (frame(labels), pixels)),
    "border": ("covers much of the image's border", lambda labels, pixels: (frame(labels), pixels)),
}


def dots(labels: Labels) -> Labels:
    rows, columns = np.indices(labels.shape)
    return np.asarray((labels > 0) & (rows % 8 == 0) & (columns % 8 == 0), np.uint8)


def frame(labels: Labels) -> Labels:
    """Return a mask of all but a small hole."""
    full = np.ones_like(labels)
    full[70:80, 70:80] = 0
    return full


@pytest.mark.parametrize(("words", "change"), FAULTS.values(), ids=FAULTS)
def test_fault_is_seen(words: str, change: Callable[[Labels, Pixels], tuple[Any, Any]]) -> None:
    found = seen(change, is_map=False)
    assert sum(words in text for text in found) >= 0.75 * len(found), found


def test_exchanged_sides_are_seen() -> None:
    def exchanged(labels: Labels, pixels: Pixels) -> tuple[Any, Any]:
        return np.array([0, 2, 1])[labels], pixels

    assert seen(exchanged, is_map=True) == [EXCHANGED] * len(SEEDS)


def test_outline_of_one_lung_around_the_other_is_seen() -> None:
    """As resizing a label map with smoothing leaves it."""

    def outlined(labels: Labels, pixels: Pixels) -> tuple[Any, Any]:
        left = (labels == 2).astype(np.uint8)
        edge = cv2.dilate(left, np.ones((3, 3), np.uint8)) - left
        dashed = edge * (np.indices(labels.shape)[0] % 8 < 6)
        return np.where((dashed > 0) & (labels == 0), 1, labels), pixels

    assert all("crumbs" in text for text in seen(outlined, is_map=True))


def test_lung_of_one_side_alone_is_no_exchange() -> None:
    def left_alone(labels: Labels, pixels: Pixels) -> tuple[Any, Any]:
        return np.where(labels == 2, 2, 0), pixels

    assert all("one half" in text for text in seen(left_alone, is_map=True))


@pytest.mark.parametrize("gray", [0.0, 0.5])
def test_image_without_contrast(gray: float) -> None:
    labels, pixels = pair(0)
    assert oddities(labels, np.full_like(pixels, gray), is_map=True) == ()
