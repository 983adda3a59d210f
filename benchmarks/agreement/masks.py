"""Masks of two programs compared pixel by pixel, image after image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cxrseg.export.verify.agreement import Backend, Limits, compare
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.model_card import ModelCard
from cxrseg.runtime.readers import read

_DIGITS = 6


@dataclass(frozen=True)
class Pair:
    """Masks of one program against those of another.

    Attributes:
        first: Name of the program.
        second: Name of the one that it is compared with.
        shares: For each image its name and the share of pixels with the same label, in [0, 1].
        with_lungs: Number of images on which the second finds lungs: two empty masks agree and
            prove nothing.
    """

    first: str
    second: str
    shares: tuple[tuple[str, float], ...]
    with_lungs: int

    @property
    def mean(self) -> float:
        """Mean share over images."""
        return sum(share for _, share in self.shares) / len(self.shares)

    @property
    def worst(self) -> float:
        """Lowest share over images."""
        return min(share for _, share in self.shares)

    @property
    def worst_image(self) -> str:
        """Name of the image with the lowest share; the first of equal ones."""
        return min(self.shares, key=lambda each: each[1])[0]

    def figures(self) -> dict[str, Any]:
        """Return number of images and figures over all of them as plain data."""
        return {
            "images": len(self.shares),
            "mean": round(self.mean, _DIGITS),
            "worst": round(self.worst, _DIGITS),
            "worst_image": self.worst_image,
            "with_lungs": self.with_lungs,
        }


def compare_all(
    backends: Mapping[str, Backend],
    reference: tuple[str, Backend],
    images: Sequence[tuple[str, Path]],
    card: ModelCard,
) -> list[Pair]:
    """Compare the masks of backends with those of a reference, at the size of the model's input.

    Args:
        backends: Name -> backend.
        reference: Name and backend of what they are compared with.
        images: Name and path of each X-ray, at least one; one is in memory at a time.
        card: The model's card.

    Raises:
        CxrsegError: An image cannot be read or a backend fails.
    """
    shares: dict[str, list[tuple[str, float]]] = {name: [] for name in backends}
    with_lungs = dict.fromkeys(backends, 0)
    for image, path in tqdm(images, unit="image", leave=False, disable=None):
        pixels = read(path).pixels
        for name, backend in backends.items():
            found = compare(backend, reference[1], [pixels], card.preprocessing, card.labels)
            shares[name].append((image, found.mean))
            with_lungs[name] += found.with_lungs
    return [Pair(name, reference[0], tuple(shares[name]), with_lungs[name]) for name in backends]


def complaints(pairs: Sequence[Pair], limits: Limits) -> list[CxrsegError]:
    """Return which masks differ too much or show too few lungs; nothing where all is well."""
    errors = []
    for pair in pairs:
        name = f"{pair.first} : {pair.second}"
        if pair.mean < limits.mean or pair.worst < limits.worst:
            cause = (
                f"masks agree on {pair.mean:.6f} of the pixels, {pair.worst:.6f} in the worst "
                f"image ({pair.worst_image}); needed are {limits.mean} and {limits.worst}"
            )
            errors.append(CxrsegError(name, cause))
        if 2 * pair.with_lungs < len(pair.shares):
            cause = (
                f"lungs are found on {pair.with_lungs} of {len(pair.shares)} images, too few to "
                "compare masks"
            )
            errors.append(CxrsegError(name, cause, "give X-rays of the kind it was trained on"))
    return errors


def shares_of_images(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return for each image the share of equal pixels of every pair, as plain data."""
    return [
        {
            "image": name,
            "equal": {pair.first: round(pair.shares[index][1], _DIGITS) for pair in pairs},
        }
        for index, (name, _) in enumerate(pairs[0].shares)
    ]
