"""Samples in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, RandomSampler, Sampler, WeightedRandomSampler

from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.trainer.data.dataset import Batch, LungDataset, balanced_weights, prepared
from cxrseg.trainer.data.samples import Sample, of_split, spread
from cxrseg.trainer.recipe import Recipe, StageRecipe


def plain_loader(
    dataset: LungDataset, stage: StageRecipe, sampler: Sampler[int] | None, devices: int = 1
) -> DataLoader[Batch]:
    """Serve a data set in batches of bytes.

    Args:
        dataset: What to serve.
        stage: For the batch size.
        sampler: Order of training, incomplete batches dropped; None for all items in order.
        devices: Number of devices that share the items.
    """
    share = 0 if sampler is None else -(-len(sampler) // devices)  # type: ignore[arg-type]
    return DataLoader(
        dataset,
        batch_size=stage.batch_size,
        sampler=sampler,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        drop_last=share >= stage.batch_size,
    )


def _as_it_is(batch: Any) -> Batch:
    return cast(Batch, batch)


def train_loader(
    recipe: Recipe,
    stage: StageRecipe,
    samples: Sequence[Sample],
    spec: Preprocessing,
    devices: int = 1,
) -> DataLoader[Batch]:
    """Serve training batches, drawn with replacement where sources are balanced.

    Args:
        recipe: For the balance.
        stage: Number of images and batch size.
        samples: What to draw from.
        spec: How images are prepared.
        devices: Number of devices that share the images.
    """
    dataset = LungDataset(samples, spec)
    count = stage.images_per_epoch or len(samples)
    sampler: Sampler[int]
    if recipe.data.balance < 1:
        weights = balanced_weights(samples, recipe.data.balance)
        sampler = WeightedRandomSampler(weights, count)
    else:
        sampler = RandomSampler(dataset, replacement=count > len(samples), num_samples=count)
    return plain_loader(dataset, stage, sampler, devices)


def val_samples(recipe: Recipe, samples: Sequence[Sample]) -> list[Sample]:
    """Choose the validation images: all, or an even share."""
    return spread(of_split(samples, "val"), recipe.data.val_images or None)


def evenly(samples: Sequence[Sample], spec: Preprocessing, count: int) -> Batch:
    """Return `count` samples, or all, spread evenly over the list, as one batch."""
    dataset = LungDataset(spread(samples, count), spec)
    return prepared(dataset.__getitems__(range(len(dataset))), spec)
