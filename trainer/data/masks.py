"""Masks: read as a person sees them, with the two lungs told apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.readers import read_picture
from cxrseg.runtime.readers.raster.picture import Picture
from cxrseg.trainer.data.colors import (
    MAX_BLENDED,
    MAX_COLORS,
    MAX_STRAY,
    VISIBLE,
    Reading,
    colors_of,
    flat,
    read_as,
    schemes_for,
    told_scheme,
)
from cxrseg.trainer.recipe import ColorRecipe

LARGE_PART = 0.1
"""A component is a lung of its own when it holds at least this share of the mask."""

CRUMBS = 0.02
"""Two lungs count as told apart when everything else in the mask is no more than this share."""

MAX_LABEL = 2
"""Largest value of a label map."""

FOUR_BITS = 17
"""What a viewer multiplies gray values of 4 bits by, to show 15 as white."""

MAX_PARTLY = 0.2
"""Largest share of pixels that are neither clear nor as opaque as the drawing, as at edges."""

_GRAY = 16
"""Channels that differ by less make a gray: JPEG changes them a little."""

_PLAIN = "save it as 8-bit PNG without transparency: 0, 1 = right lung, 2 = left lung"


@dataclass(frozen=True)
class Mask:
    """A mask file, laid as its X-ray is stored.

    Attributes:
        labels: uint8 [H, W] of 0 and 1 (binary), or 0, 1, 2 (label map).
        between: Share of pixels in [0, 1] whose value is between those of the labels, as at
            smoothed edges.
    """

    labels: NDArray[np.uint8]
    between: float


def open_mask(path: Path, size: tuple[int, int], told: ColorRecipe | None = None) -> Mask:
    """Read a mask file as a person sees it.

    Palettes are resolved to colors, an Exif orientation is applied, and what is transparent is
    background. Gray masks are binary (any two values, the darker of which is 0), label maps of 0,
    1 = right and 2 = left lung (17 and 34 where 4 bits became 8), or label maps of black, half
    white = right and white = left lung, of any depth. Colored masks have one color on black, the
    colors of cxrseg-run's masks, or those that are told.

    Args:
        path: PNG, TIFF, BMP or JPEG file of one page.
        size: Native (height, width) of its X-ray.
        told: What its colors mean.

    Raises:
        CxrsegError: No picture, another size, empty, or nobody can tell what is lung.
    """
    picture = read_picture(path)
    if picture.size != size:
        (height, width), turned = picture.size, ""
        if picture.size == size[::-1]:
            turned = " (one of the two may be turned by its Exif orientation)"
        raise CxrsegError(
            path,
            f"the mask is {width} x {height}, its image {size[1]} x {size[0]}{turned}",
            "draw the mask at the size of the image",
        )
    drawn, transparent = _drawn(picture, path)
    reading = _read(drawn, picture.lossy, told, path)
    labels = reading.labels
    if not labels.any():
        raise CxrsegError(path, "the mask is empty", "remove the pair or draw the lungs")
    if labels.all():
        raise CxrsegError(path, "the mask has no background", "remove the pair or draw the lungs")
    corners = labels[:: size[0] - 1, :: size[1] - 1]
    if transparent is not None and corners.all():
        cause = "what it shows around a transparent part may be lung or not"
        raise CxrsegError(path, cause, _PLAIN)
    blurred = 0.0 if transparent is None else transparent
    return Mask(labels, reading.odd + blurred)


def _drawn(picture: Picture, path: Path) -> tuple[NDArray[Any], float | None]:
    """Set what is transparent to 0; return the pixels, and the share that partly is, if any."""
    alpha = picture.alpha
    if alpha is None:
        return picture.pixels, None
    top = int(alpha.max())
    partly = (alpha > top // 8) & (alpha < top - top // 8)
    if not top or (partly & flat(alpha)).mean() > MAX_STRAY or partly.mean() > MAX_PARTLY:
        cause = "is transparent in several degrees" if top else "is transparent all over"
        raise CxrsegError(path, cause, _PLAIN)
    pixels = picture.pixels
    pixels[alpha <= top // 2] = 0
    if not pixels.any():
        cause = "is black where it is not transparent"
        raise CxrsegError(path, cause, _PLAIN)
    return pixels, float(partly.mean())


def _read(pixels: NDArray[Any], lossy: bool, told: ColorRecipe | None, path: Path) -> Reading:
    """Read the pixels by the first scheme that fits."""
    if pixels.ndim == 3 and np.ptp(pixels, axis=2).max() < _GRAY:
        pixels = pixels[..., 1]
    if pixels.ndim == 2:
        pixels = _whole_numbers(pixels, path)
    picture = _eight_bits(pixels)
    schemes = [told_scheme(told)] if told else []
    if not _has_small_and_large(pixels):
        schemes += schemes_for(picture)
    for scheme in schemes:
        reading = read_as(picture, scheme)
        if reading.fits and reading.labels.any():
            if reading.odd > MAX_BLENDED and scheme.blends_mislead:
                cause = "its label values are blended where they meet, and a blend is another label"
                raise CxrsegError(path, cause, "save it without smoothing, and not as JPEG")
            return reading
    pixels = _of_four_bits(pixels)
    if pixels.ndim == 2 and pixels.max() <= MAX_LABEL:
        if not lossy:
            return Reading(pixels.astype(np.uint8), 0, 0)
        cause = f"is JPEG, which does not keep values as small as 0 to {MAX_LABEL}"
        raise CxrsegError(path, cause, "save it as PNG, or white on black")
    names = colors_of(picture)
    if names is None:
        cause = "neither a binary mask nor a label map (0, 1 = right lung, 2 = left lung)"
        raise CxrsegError(path, cause, "check that images and masks are not swapped")
    cause = f"which of its colors {', '.join(names)} are lung is not told"
    remedy = "name them in the recipe of cxrseg-train (data.colors), or save 0, 1 = right, 2 = left"
    raise CxrsegError(path, cause, remedy)


def _of_four_bits(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return the label map that 4 bits show as 0, 17 and 34; all else as it is."""
    if pixels.ndim == 3 or pixels.max() > FOUR_BITS * MAX_LABEL or (pixels % FOUR_BITS).any():
        return pixels
    return pixels // FOUR_BITS


def _has_small_and_large(pixels: NDArray[Any]) -> bool:
    """Tell whether a drawing has the values of a label map beside others: nobody knows which count.

    A 255 beside 0, 1 and 2 often means "not drawn", and would pass for white on black.
    """
    if pixels.ndim == 3 or pixels.max() <= MAX_LABEL:
        return False
    counts = np.bincount(pixels.ravel())
    small = counts[1 : MAX_LABEL + 1].sum()
    return bool(np.count_nonzero(counts) <= MAX_COLORS and small > MAX_STRAY * pixels.size)


def _whole_numbers(pixels: NDArray[Any], path: Path) -> NDArray[Any]:
    """Return gray values [H, W] as whole numbers from 0 to 65535; shares of 1 become bytes."""
    if pixels.dtype == np.bool_:
        return np.asarray(pixels, np.uint8)
    if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 65535:
        cause = f"has values from {pixels.min()} to {pixels.max()}"
        raise CxrsegError(path, cause, _PLAIN)
    if pixels.dtype.kind != "f":
        return pixels
    if (pixels == np.rint(pixels)).all():
        return np.asarray(pixels, np.uint16)
    if 1 < pixels.max() < VISIBLE:
        cause = f"has values between whole numbers, up to {pixels.max()}"
        raise CxrsegError(path, cause, _PLAIN)
    return np.asarray(np.rint(pixels if pixels.max() > 1 else pixels * 255), np.uint16)


def _eight_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return whole numbers [H, W], or RGB, as bytes: of more than 255 the largest becomes white."""
    top = int(pixels.max())
    return (pixels if top <= 255 else np.rint(pixels * (255 / top))).astype(np.uint8, copy=False)


def tell_sides_apart(mask: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Turn a binary mask of two lungs into a label map, where it falls into two parts.

    The part further left in the image is the patient's right lung. Crumbs join the nearer lung.

    Args:
        mask: uint8 [H, W] of 0 and 1.

    Returns:
        uint8 [H, W] of 0, 1 = right, 2 = left; None when the lungs touch or one is missing.
    """
    count, parts, stats, centers = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    total = int(areas.sum())
    if count < 3 or total == 0:
        return None
    order = np.argsort(areas)[::-1]
    first, second = order[:2]
    if areas[second] < LARGE_PART * total:
        return None
    if total - areas[first] - areas[second] > CRUMBS * total:
        return None
    right, left = sorted((first, second), key=lambda i: centers[1 + i][0])
    middles = centers[1:, 0]
    nearer_left = np.abs(middles - middles[left]) < np.abs(middles - middles[right])
    table = np.zeros(count, np.uint8)
    table[1:] = np.where(nearer_left, 2, 1)
    table[1 + right], table[1 + left] = 1, 2
    return np.asarray(table[parts], dtype=np.uint8)
