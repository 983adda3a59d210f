"""What a model's outlines look like on an image: all that a reference is fitted to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrseg.export.reference.images import SourceImage
from cxrseg.runtime.core.labels import PROTOCOLS, Protocol, labels_of
from cxrseg.runtime.core.preprocess import preprocess
from cxrseg.runtime.inference.loading import LoadedModel
from cxrseg.runtime.inference.postprocess import clean_components, label_mask
from cxrseg.runtime.inference.running import run_model
from cxrseg.runtime.quality.features import cut_off, grid_logits, shape, thumbnail, uncertainty
from cxrseg.runtime.readers.reading import read

_CUT, _PAD, _PADDED = 0.08, 0.11, 0.4


@dataclass(frozen=True)
class Outlines:
    """The outlines of one image under one protocol.

    Attributes:
        shape: float64 [12] of `features.shape`; None where a lung is missing.
        uncertainty: Of `features.uncertainty`.
        cut: Of `features.cut_off`.
    """

    shape: NDArray[np.float64] | None
    uncertainty: float
    cut: Mapping[str, float]


@dataclass(frozen=True)
class Observation:
    """One image as the quality flags see it.

    Attributes:
        source: Where it comes from.
        patient: Whose it is.
        cells: float64 [CELLS, CELLS] of `features.thumbnail`; None where there is nothing to see.
        framed: The same with other margins.
        outlines: Protocol -> outlines, of the protocols that the model knows.
    """

    source: str
    patient: str
    cells: NDArray[np.float64] | None
    framed: NDArray[np.float64] | None
    outlines: Mapping[Protocol, Outlines]

    def shapes(self, protocols: Iterable[Protocol]) -> dict[Protocol, NDArray[np.float64]] | None:
        """Return protocol -> shape of both lungs; None where one of them is missing."""
        found: dict[Protocol, NDArray[np.float64]] = {}
        for protocol in protocols:
            lungs = self.outlines[protocol].shape
            if lungs is None:
                return None
            found[protocol] = lungs
        return found


def observe(
    model: LoadedModel, images: Iterable[SourceImage], seed: int = 0
) -> Iterator[Observation]:
    """Segment images, one after another.

    Args:
        model: The model whose masks the flags shall judge.
        images: The X-rays.
        seed: Seed of the random margins.

    Raises:
        CxrsegError: An image cannot be read, or the model fails on it.
    """
    rng = np.random.default_rng(seed)
    for image in images:
        pixels = read(image.path).content
        yield Observation(
            image.source,
            image.patient,
            thumbnail(pixels),
            thumbnail(framed(pixels, rng)),
            _outlines(model, pixels, image.path),
        )


def _outlines(
    model: LoadedModel, pixels: NDArray[np.float32], path: Path
) -> dict[Protocol, Outlines]:
    names = model.card.labels
    batch = preprocess(pixels, model.card.preprocessing)[None, None]
    logits = run_model(model, batch, path)
    found: dict[Protocol, Outlines] = {}
    for protocol in PROTOCOLS:
        labels = labels_of(protocol)
        if {label.name for label in labels} <= {*names}:
            channels = logits[[names.index(label.name) for label in labels]]
            grid = grid_logits(clean_components(channels, labels))
            mask = label_mask(list(grid), labels)
            found[protocol] = Outlines(shape(mask), uncertainty(grid, mask), cut_off(mask))
    return found


def framed(pixels: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Cut the margins of float32 [H, W] at random and give some images a flat border."""
    height, width = pixels.shape
    top, bottom, left, right = rng.uniform(0, _CUT, 4) * (height, height, width, width)
    out = pixels[int(top) : height - int(bottom), int(left) : width - int(right)]
    if rng.random() < _PADDED:
        pads = (rng.uniform(0, _PAD, 4) * (height, height, width, width)).astype(int)
        gray = float(rng.choice([0.0, 0.0, float(out.max())]))
        out = np.pad(out, (tuple(pads[:2]), tuple(pads[2:])), constant_values=gray)
    return np.ascontiguousarray(out)
