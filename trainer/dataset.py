"""Samples as tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cxrseg.runtime.labels import PROTOCOLS
from cxrseg.runtime.preprocess import Preprocessing, preprocess, resize, window
from cxrseg.runtime.readers import read
from cxrseg.trainer.data import Sample, label_map


class LungDataset(Dataset[dict[str, Tensor]]):
    """X-rays preprocessed as the runtime does, with soft masks.

    Each item holds ``image`` float32 [1, S, S] in [0, 1]; ``mask`` float32 [3, S, S] in [0, 1],
    the planes right lung, left lung and union (right and left are 0 where `sided` is False);
    ``sided`` bool; ``protocol`` int64, an index into `PROTOCOLS`; ``index`` int64.

    Args:
        samples: What to serve, in order.
        preprocessing: The input contract.
        augment: Transform of ``image`` and ``mask``, applied before the gray-value window; None
            for evaluation.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        preprocessing: Preprocessing,
        augment: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.samples = list(samples)
        self.preprocessing = preprocessing
        self.augment = augment

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        sample, spec = self.samples[index], self.preprocessing
        radiograph = read(sample.image)
        labels, sided = label_map(sample, radiograph.size)
        union = labels > 0
        planes = [labels == 1, labels == 2] if sided else [union & False, union & False]
        side = (spec.size, spec.size)
        mask = np.stack(
            [
                cv2.resize(plane.astype(np.float32), side, interpolation=cv2.INTER_AREA)
                for plane in (*planes, union)
            ]
        ).clip(0, 1)
        if self.augment is None:
            pixels = preprocess(radiograph.pixels, spec)
        else:
            varied = self.augment(
                {"image": resize(radiograph.pixels, spec.size)[None], "mask": mask}
            )
            gray = np.asarray(varied["image"], dtype=np.float32)[0]
            pixels = window(gray, spec.low, spec.high)
            mask = np.clip(np.asarray(varied["mask"], dtype=np.float32), 0, 1)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(pixels))[None],
            "mask": torch.from_numpy(np.ascontiguousarray(mask)),
            "sided": torch.tensor(sided),
            "protocol": torch.tensor(PROTOCOLS.index(sample.protocol)),
            "index": torch.tensor(index),
        }


def balanced_weights(samples: Sequence[Sample]) -> list[float]:
    """Return sampling weights that let a group of n samples count as the square root of n."""
    counts: dict[str, int] = {}
    for sample in samples:
        counts[sample.group] = counts.get(sample.group, 0) + 1
    return [counts[sample.group] ** -0.5 for sample in samples]
