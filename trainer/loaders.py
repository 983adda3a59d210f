"""Samples in batches."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader, RandomSampler, Sampler, WeightedRandomSampler

from cxrseg.runtime.preprocess import Preprocessing
from cxrseg.trainer.augment import augmentation
from cxrseg.trainer.data import Sample, of_split
from cxrseg.trainer.dataset import (
    LungDataset,
    balanced_weights,
    seed_augmentation,
    seed_worker,
)
from cxrseg.trainer.recipe import Recipe, StageRecipe


def _workers(recipe: Recipe) -> int:
    if recipe.data.workers >= 0:
        return recipe.data.workers
    usable = getattr(os, "sched_getaffinity", None)
    cpus = len(usable(0)) if usable else os.cpu_count() or 1
    return max(0, min(8, cpus - 1))


def plain_loader(
    recipe: Recipe, dataset: LungDataset, stage: StageRecipe, sampler: Sampler[int] | None
) -> DataLoader[dict[str, torch.Tensor]]:
    """Serve a data set in batches.

    Args:
        recipe: For the number of workers.
        dataset: What to serve.
        stage: For the batch size.
        sampler: Order of training, incomplete batches dropped; None for all items in order.
    """
    workers = _workers(recipe)
    return DataLoader(
        dataset,
        batch_size=stage.batch_size,
        sampler=sampler,
        num_workers=workers,
        worker_init_fn=seed_worker,
        persistent_workers=workers > 0,
        drop_last=sampler is not None and len(sampler) >= stage.batch_size,  # type: ignore[arg-type]
    )


def train_loader(
    recipe: Recipe, stage: StageRecipe, samples: Sequence[Sample], spec: Preprocessing
) -> DataLoader[dict[str, torch.Tensor]]:
    """Serve augmented training batches, drawn with replacement where sources are balanced."""
    dataset = LungDataset(samples, spec, augmentation(recipe.augment, spec.size))
    seed_augmentation(dataset, torch.initial_seed())
    count = stage.images_per_epoch or len(samples)
    sampler: Sampler[int]
    if recipe.data.balance < 1:
        weights = balanced_weights(samples, recipe.data.balance)
        sampler = WeightedRandomSampler(weights, count)
    else:
        sampler = RandomSampler(dataset, replacement=count > len(samples), num_samples=count)
    return plain_loader(recipe, dataset, stage, sampler)


def val_samples(recipe: Recipe, samples: Sequence[Sample]) -> list[Sample]:
    """Choose the validation images: all, or an even share."""
    own = of_split(samples, "val")
    limit = recipe.data.val_images
    if not limit or limit >= len(own):
        return own
    return [own[i * len(own) // limit] for i in range(limit)]


def evenly(
    samples: Sequence[Sample], spec: Preprocessing, count: int
) -> list[dict[str, torch.Tensor]]:
    """Return the items of `count` samples, or of all, spread evenly over the list."""
    count = min(count, len(samples))
    dataset = LungDataset([samples[i * len(samples) // count] for i in range(count)], spec)
    return [dataset[i] for i in range(count)]
