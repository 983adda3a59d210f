"""Samples as tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import cv2
import numpy as np
import torch
from lightning.fabric.utilities.seed import pl_worker_init_function
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import PROTOCOLS
from cxrseg.runtime.core.preprocess import Preprocessing, preprocess, resize, window
from cxrseg.trainer.data.pairs import read_pair
from cxrseg.trainer.data.samples import Sample


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

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]] | CxrsegError:
        """Return several items, as PyTorch's loaders ask for them, or the first failure.

        A failure is returned, because PyTorch's workers hand an exception over as text alone.
        """
        try:
            return [self[index] for index in indices]
        except CxrsegError as error:
            return error

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        sample, spec = self.samples[index], self.preprocessing
        pair = read_pair(sample)
        labels, union = pair.labels, pair.labels > 0
        planes = [labels == 1, labels == 2] if pair.sided else [union & False, union & False]
        side = (spec.size, spec.size)
        mask = np.stack(
            [
                cv2.resize(plane.astype(np.float32), side, interpolation=cv2.INTER_AREA)
                for plane in (*planes, union)
            ]
        ).clip(0, 1)
        if self.augment is None:
            pixels = preprocess(pair.pixels, spec)
        else:
            varied = self.augment({"image": resize(pair.pixels, spec.size)[None], "mask": mask})
            gray = np.asarray(varied["image"], dtype=np.float32)[0]
            pixels = window(gray, spec.low, spec.high)
            mask = np.clip(np.asarray(varied["mask"], dtype=np.float32), 0, 1)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(pixels))[None],
            "mask": torch.from_numpy(np.ascontiguousarray(mask)),
            "sided": torch.tensor(pair.sided),
            "protocol": torch.tensor(PROTOCOLS.index(sample.protocol)),
            "index": torch.tensor(index),
        }


def collate(items: list[dict[str, Tensor]] | CxrsegError) -> dict[str, Tensor] | CxrsegError:
    """Stack items to a batch; a failure stays what it is, for the training to raise."""
    if isinstance(items, CxrsegError):
        return items
    return cast(dict[str, Tensor], default_collate(items))


def seed_worker(worker: int) -> None:
    """Seed everything random in a data loader's worker, augmentation included."""
    pl_worker_init_function(worker)
    info = get_worker_info()
    if info is not None and isinstance(info.dataset, LungDataset):
        # Unlike the loader's own seed, this one differs from device to device.
        seed_augmentation(info.dataset, torch.initial_seed())


def seed_augmentation(dataset: LungDataset, seed: int) -> None:
    """Seed a dataset's MONAI transform, which keeps a random state of its own."""
    augment: Any = dataset.augment
    if augment is not None:
        augment.set_random_state(seed % 2**32)


def balanced_weights(samples: Sequence[Sample], power: float) -> list[float]:
    """Return sampling weights that let a group of n samples count as n to a power in 0..1."""
    counts: dict[str, int] = {}
    for sample in samples:
        counts[sample.group] = counts.get(sample.group, 0) + 1
    return [counts[sample.group] ** (power - 1) for sample in samples]
