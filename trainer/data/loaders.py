"""Samples in batches."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, RandomSampler, Sampler, WeightedRandomSampler

from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.trainer.data.augment import augmentation
from cxrseg.trainer.data.dataset import (
    LungDataset,
    balanced_weights,
    collate,
    seed_augmentation,
    seed_worker,
)
from cxrseg.trainer.data.samples import Sample, of_split, spread
from cxrseg.trainer.recipe import Recipe, StageRecipe


def _workers(recipe: Recipe) -> int:
    if recipe.data.workers >= 0:
        return recipe.data.workers
    usable = getattr(os, "sched_getaffinity", None)
    cpus = len(usable(0)) if usable else os.cpu_count() or 1
    return max(0, min(16, cpus - 1))


def plain_loader(
    recipe: Recipe,
    dataset: LungDataset,
    stage: StageRecipe,
    sampler: Sampler[int] | None,
    devices: int = 1,
) -> DataLoader[dict[str, torch.Tensor]]:
    """Serve a data set in batches.

    Args:
        recipe: For the number of workers.
        dataset: What to serve.
        stage: For the batch size.
        sampler: Order of training, incomplete batches dropped; None for all items in order.
        devices: Number of devices that share the items.
    """
    workers = _workers(recipe)
    share = 0 if sampler is None else -(-len(sampler) // devices)  # type: ignore[arg-type]
    return DataLoader(
        dataset,
        batch_size=stage.batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=seed_worker,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        drop_last=share >= stage.batch_size,
    )


def train_loader(
    recipe: Recipe,
    stage: StageRecipe,
    samples: Sequence[Sample],
    spec: Preprocessing,
    devices: int = 1,
) -> DataLoader[dict[str, torch.Tensor]]:
    """Serve augmented training batches, drawn with replacement where sources are balanced.

    Args:
        recipe: Augmentation, balance and number of workers.
        stage: Number of images and batch size.
        samples: What to draw from.
        spec: How images are prepared.
        devices: Number of devices that share the images.
    """
    dataset = LungDataset(samples, spec, augmentation(recipe.augment, spec.size))
    # Every device draws its own variations.
    seed_augmentation(dataset, torch.initial_seed() + getattr(rank_zero_only, "rank", 0))
    count = stage.images_per_epoch or len(samples)
    sampler: Sampler[int]
    if recipe.data.balance < 1:
        weights = balanced_weights(samples, recipe.data.balance)
        sampler = WeightedRandomSampler(weights, count)
    else:
        sampler = RandomSampler(dataset, replacement=count > len(samples), num_samples=count)
    return plain_loader(recipe, dataset, stage, sampler, devices)


def val_samples(recipe: Recipe, samples: Sequence[Sample]) -> list[Sample]:
    """Choose the validation images: all, or an even share."""
    return spread(of_split(samples, "val"), recipe.data.val_images or None)


def evenly(
    samples: Sequence[Sample], spec: Preprocessing, count: int
) -> list[dict[str, torch.Tensor]]:
    """Return the items of `count` samples, or of all, spread evenly over the list."""
    dataset = LungDataset(spread(samples, count), spec)
    return [dataset[i] for i in range(len(dataset))]
