"""Do two programs see the same lungs? Masks compared pixel by pixel; no PyTorch needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.core.labels import HEART, PROTOCOLS, Structure, labels_of
from cxrseg.runtime.core.preprocess import Preprocessing, preprocess
from cxrseg.runtime.inference.postprocess import label_mask, upsample

Backend = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""What runs a network: float32 [1, 1, S, S] -> logits float32 [C, S / 4, S / 4]."""

LEAST_LUNG = 0.01
"""Share of the image that counts as a lung found."""


@dataclass(frozen=True)
class Limits:
    """Least shares of pixels with the same label.

    Attributes:
        mean: On average over the images.
        worst: In the worst image.
    """

    mean: float
    worst: float


SAME_NETWORK = Limits(0.999, 0.995)
"""For one network in PyTorch and in ONNX Runtime."""

SAME_WEIGHTS = Limits(0.995, 0.98)
"""Where a few activations may move over a rounding step: against the network as it was trained,
before biases became int32 and the rest FP16, and for FP16 computation."""

ROUNDED_LATER = Limits(0.99, 0.95)
"""For a network that was rounded after its training, against the same in float."""

DRAWN_IMAGES = Limits(0.95, 0)
"""For a float network and its INT8 file on drawn images, which are like none that it was trained
on, so that rounding moves more."""


@dataclass(frozen=True)
class Agreement:
    """Share of pixels with the same label, over images.

    Attributes:
        mean: Over all images.
        worst: Of the worst image.
        images: Number of images.
        with_lungs: Number of images on which the second backend's masks hold a lung: two empty
            masks agree and prove nothing.
    """

    mean: float
    worst: float
    images: int
    with_lungs: int


def masks_of(
    logits: NDArray[np.float32], labels: Sequence[str], size: int
) -> list[NDArray[np.uint8]]:
    """Return masks of `size` of each protocol among the labels, and of the heart, as in use."""
    masks = []
    groups: list[Sequence[Structure]] = [labels_of(protocol) for protocol in PROTOCOLS]
    for group in (*groups, (HEART,)):
        known = [label for label in group if label.name in labels]
        if known:
            planes = [upsample(logits[labels.index(x.name)], (size, size)) for x in known]
            masks.append(label_mask(planes, known))
    return masks


def compare(
    first: Backend,
    second: Backend,
    radiographs: Sequence[NDArray[np.float32]],
    spec: Preprocessing,
    labels: Sequence[str],
) -> Agreement:
    """Compare the masks of two backends.

    Args:
        first: One backend.
        second: The other.
        radiographs: float32 [H, W] images, at least one.
        spec: The input contract.
        labels: Channel names.
    """
    shares, with_lungs = [], 0
    for pixels in radiographs:
        batch = preprocess(pixels, spec)[None, None]
        found = masks_of(first(batch), labels, spec.size)
        expected = masks_of(second(batch), labels, spec.size)
        pairs = zip(found, expected, strict=True)
        shares.append(float(np.mean([np.mean(a == b) for a, b in pairs])))
        with_lungs += all(np.mean(mask > 0) >= LEAST_LUNG for mask in expected)
    return Agreement(float(np.mean(shares)), float(np.min(shares)), len(shares), with_lungs)
