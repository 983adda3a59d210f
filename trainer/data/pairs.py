"""An X-ray and its mask, laid as the network will see the X-ray."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.core.borders import inside_borders
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.orientation import UPRIGHT
from cxrseg.runtime.readers import read
from cxrseg.trainer.data.masks import MAX_LABEL, open_mask, tell_sides_apart
from cxrseg.trainer.data.samples import Sample


@dataclass(frozen=True)
class Pair:
    """An X-ray with its mask, upright and without uniform borders, at its native size.

    Attributes:
        pixels: float32 [H, W] in [0, 1], as `Radiograph.content`.
        labels: uint8 [H, W]: 0, 1 = right, 2 = left where `sided`, else 0 and 1.
        sided: Whether the lungs are told apart.
        is_map: Whether the file tells them apart itself.
        between: As `Mask.between`.
        heart: uint8 [H, W], not 0 in the heart; None where it is not drawn.
    """

    pixels: NDArray[np.float32]
    labels: NDArray[np.uint8]
    sided: bool
    is_map: bool
    between: float
    heart: NDArray[np.uint8] | None = None


def read_pair(sample: Sample) -> Pair:
    """Read the files of a sample. Masks lie as their X-ray is stored.

    Raises:
        CxrsegError: One of them cannot be read or is no such image, or they do not fit.
    """
    radiograph = read(sample.image)
    mask = open_mask(sample.mask, radiograph.size, sample.colors)
    upright = radiograph.upright
    box = inside_borders(upright)
    orientation = radiograph.orientation or UPRIGHT
    labels = np.ascontiguousarray(orientation.upright(mask.labels)[box])
    if not labels.any():
        cause = "the mask lies in the uniform border of its X-ray"
        raise CxrsegError(sample.mask, cause, "check that both belong together")
    is_map = bool(mask.labels.max() == MAX_LABEL)
    apart = None if is_map else tell_sides_apart(labels)
    sided = is_map or apart is not None
    heart = None
    if sample.heart is not None:
        drawn = open_mask(sample.heart, radiograph.size, sample.colors).labels
        heart = np.ascontiguousarray(orientation.upright(drawn)[box])
    sides = labels if apart is None else apart
    return Pair(upright[box], sides, sided, is_map, mask.between, heart)
