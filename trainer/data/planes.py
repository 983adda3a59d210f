"""Images and masks in memory, a byte a pixel, and what the network and its loss take of them."""

from __future__ import annotations

import torch
from torch import Tensor

from cxrseg.runtime.core.preprocess import FLAT, Preprocessing

RIGHT, LEFT, HEART = 1, 2, 4
"""Bits of a label byte. Lungs that are not told apart have both of theirs."""

HEART_PLANE = 3
"""Index of the heart's plane."""

MIRRORED = {0: 1, 1: 0}
"""Plane -> the plane that it becomes in a mirror image."""


def planes_of(labels: Tensor, sided: Tensor) -> Tensor:
    """Turn label bytes into planes.

    Args:
        labels: uint8 [B, 1, S, S], bits `RIGHT`, `LEFT` and `HEART`.
        sided: bool [B], whether right and left lung are told apart.

    Returns:
        float32 [B, 4, S, S] of 0 and 1: right lung, left lung, both, heart. The first two are 0
        where the lungs are not told apart.
    """
    apart = sided[:, None, None, None]
    sides = [(labels & bit > 0) & apart for bit in (RIGHT, LEFT)]
    both, heart = labels & (RIGHT | LEFT) > 0, labels & HEART > 0
    return torch.cat([*sides, both, heart], dim=1).float()


def windowed(image: Tensor, spec: Preprocessing, step: int = 1) -> Tensor:
    """Stretch gray values as `cxrseg.runtime.core.preprocess.window` does, whole batches at once.

    Args:
        image: float32 [B, 1, S, S].
        spec: The percentiles that become 0 and 1.
        step: Take every so many rows and columns for the percentiles.

    Returns:
        float32 [B, 1, S, S] in [0, 1].
    """
    pixels = image[:, 0]
    low, high = pixels.amin((1, 2)), pixels.amax((1, 2))
    flat = FLAT * (high - low)[:, None]
    rows = _between(pixels.amax(2) - pixels.amin(2) > flat)
    columns = _between(pixels.amax(1) - pixels.amin(1) > flat)
    first = step // 2
    content = (rows[:, first::step, None] & columns[:, None, first::step]).flatten(1)
    values = pixels[:, first::step, first::step].flatten(1)
    content |= ~content.any(dim=1, keepdim=True)
    ranked = torch.where(content, values, torch.inf).sort(dim=1).values
    count = content.sum(dim=1)
    bottom, top = (_percentile(ranked, count, x) for x in (spec.low, spec.high))
    plain = top - bottom <= 1e-6 * (high - low)
    bottom, top = torch.where(plain, low, bottom), torch.where(plain, high, top)
    shape = (-1, 1, 1, 1)
    span = (top - bottom).clamp(min=torch.finfo(image.dtype).tiny).reshape(shape)
    return ((image - bottom.reshape(shape)) / span).clamp(0, 1)


def _between(marked: Tensor) -> Tensor:
    """Mark all from the first to the last that is marked, bool [B, N]."""
    count = marked.int()
    return (count.cumsum(1) > 0) & (count.flip(1).cumsum(1).flip(1) > 0)


def _percentile(ranked: Tensor, count: Tensor, share: float) -> Tensor:
    """Return a percentile [B] of the first `count` [B] of sorted numbers [B, N], as NumPy does."""
    place = (count - 1) * (share / 100)
    below = place.floor().long()
    above = torch.minimum(below + 1, count - 1)
    low, high = (ranked.gather(1, x[:, None]).squeeze(1) for x in (below, above))
    return low + (high - low) * (place - below)
