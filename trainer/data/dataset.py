"""Samples as tensors: read once, then kept in memory, a byte a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from cxrseg.runtime.core.labels import PROTOCOLS
from cxrseg.runtime.core.preprocess import Preprocessing, resize
from cxrseg.trainer.data.augment import vary
from cxrseg.trainer.data.pairs import read_pair
from cxrseg.trainer.data.planes import HEART, LEFT, RIGHT, planes_of, windowed
from cxrseg.trainer.data.samples import Sample
from cxrseg.trainer.recipe import AugmentRecipe

Batch = dict[str, Tensor]
"""Samples as the network takes them: ``image`` float32 [B, 1, S, S] in [0, 1]; ``mask`` float32
[B, 4, s, s] in [0, 1], the planes right lung, left lung, both (right and left are 0 where
``sided`` is False), and heart; ``sided`` bool [B]; ``heart`` bool [B], whether it is drawn;
``protocol`` int64 [B], an index into `PROTOCOLS`;
``index`` int64 [B]. In memory, ``image`` and ``mask`` are bytes: gray values, and label bits."""

PERCENTILE_STEP = 3
"""In training, percentiles of gray values are taken of every so many rows and columns."""


class LungDataset(Dataset[Batch]):
    """X-rays of the network's size, with label bits, read when they are first asked for.

    Args:
        samples: What to serve, in order.
        preprocessing: The input contract.
    """

    def __init__(self, samples: Sequence[Sample], preprocessing: Preprocessing) -> None:
        self.samples = list(samples)
        self.preprocessing = preprocessing
        shape = (len(self.samples), 1, preprocessing.size, preprocessing.size)
        self._images = torch.empty(shape, dtype=torch.uint8)
        self._labels = torch.empty(shape, dtype=torch.uint8)
        self._sided = torch.zeros(len(self.samples), dtype=torch.bool)
        self._heart = torch.tensor([sample.heart is not None for sample in self.samples])
        self._read = torch.zeros(len(self.samples), dtype=torch.bool)
        protocols = [PROTOCOLS.index(sample.protocol) for sample in self.samples]
        self._protocols = torch.tensor(protocols, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a batch in bytes, as PyTorch's loaders ask for it.

        Raises:
            CxrsegError: An image or a mask cannot be read.
        """
        missing = {index for index in indices if not self._read[index]}
        if missing:
            with ThreadPoolExecutor() as pool:
                list(pool.map(self._keep, missing))
        index = torch.tensor(indices)
        return {
            "image": self._images[index],
            "mask": self._labels[index],
            "sided": self._sided[index],
            "heart": self._heart[index],
            "protocol": self._protocols[index],
            "index": index,
        }

    def __getitem__(self, index: int) -> Batch:
        """Return a batch of one."""
        return self.__getitems__([index])

    def _keep(self, index: int) -> None:
        pair, side = read_pair(self.samples[index]), self.preprocessing.size
        gray = resize(pair.pixels, side)
        self._images[index, 0] = torch.from_numpy(np.rint(255 * gray).astype(np.uint8))
        bits = label_bits(pair.labels, pair.sided, side)
        if pair.heart is not None:
            bits |= np.uint8(HEART) * resized(pair.heart, side)
        self._labels[index, 0] = torch.from_numpy(bits)
        self._sided[index] = pair.sided
        self._read[index] = True


def label_bits(labels: NDArray[np.uint8], sided: bool, side: int) -> NDArray[np.uint8]:
    """Resize a mask by area to label bits, uint8 [side, side].

    Args:
        labels: [H, W], 1 = right, 2 = left; or 1 = lung where the sides are not told apart.
        sided: Whether they are.
        side: Of the result.
    """
    bits = np.zeros((side, side), np.uint8)
    for value, bit in ((1, RIGHT), (2, LEFT)) if sided else ((1, RIGHT | LEFT),):
        bits |= np.uint8(bit) * resized(labels == value, side)
    return bits


def resized(mask: NDArray[Any], side: int) -> NDArray[np.bool_]:
    """Resize a mask [H, W], true where it is not 0, by area to [side, side]."""
    share = cv2.resize((mask > 0).astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(share > 0.5)


def prepared(batch: Batch, spec: Preprocessing) -> Batch:
    """Turn bytes into what the network takes and is judged by, masks at the images' size.

    Args:
        batch: From `LungDataset`, on any device.
        spec: The input contract.
    """
    image = windowed(batch["image"].float() / 255, spec)
    return {**batch, "image": image, "mask": planes_of(batch["mask"], batch["sided"])}


def varied(batch: Batch, spec: Preprocessing, recipe: AugmentRecipe) -> Batch:
    """Turn bytes into what the network learns from: varied, masks at half the images' size.

    Args:
        batch: From `LungDataset`, on any device.
        spec: The input contract.
        recipe: How to vary it.
    """
    planes = F.avg_pool2d(planes_of(batch["mask"], batch["sided"]), 2)
    image, mask = vary(batch["image"].float() / 255, planes, recipe)
    return {**batch, "image": windowed(image, spec, PERCENTILE_STEP), "mask": mask.clamp(0, 1)}


def balanced_weights(samples: Sequence[Sample], power: float) -> list[float]:
    """Return sampling weights that let a group of n samples count as n to a power in 0..1."""
    counts: dict[str, int] = {}
    for sample in samples:
        counts[sample.group] = counts.get(sample.group, 0) + 1
    return [counts[sample.group] ** (power - 1) for sample in samples]
