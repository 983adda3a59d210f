"""Corrections by simulated clicks, and the masks' own doubt, as SAM learns them.

A click falls in the middle of the largest error, and the mask so far is the dense prompt, which
also tells the structure that is meant (Kirillov et al. 2023, Segment Anything, appendix A). The
IoU token learns the Dice that each mask reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cxrseg.runtime.core.labels import HEART, PROTOCOLS, labels_of
from cxrseg.trainer.data.dataset import Batch
from cxrseg.trainer.data.planes import HEART_PLANE
from cxrseg.trainer.fit.losses import bce_dice, dice_of
from cxrseg.trainer.networks.convolutions import Features
from cxrseg.trainer.networks.edge import INSIDE, OUTSIDE, Clicks, EdgeSAM

DEEPEST = 15
"""Cells from the edge of an error within which its middle is looked for."""

SURE = 12.0
"""Logits of a mask prompt are limited to this: they say inside or outside, not how sure."""

SPOILED = 0.4
"""Share of first masks that are spoiled at random, so that there is more to correct."""

SPOILING = 8.0
"""Largest standard deviation of the smooth field of logits that spoils a mask."""


@dataclass(frozen=True)
class Targets:
    """What each channel should find.

    Attributes:
        planes: float32 [B, C, s, s] in [0, 1].
        known: bool [B, C], whether the image tells it.
    """

    planes: Tensor
    known: Tensor


def targets_of(batch: Batch, labels: Sequence[str]) -> Targets:
    """Return the target of each channel of a batch.

    Args:
        batch: As the network takes it.
        labels: Names of the C channels.
    """
    side = {"right": 0, "left": 1}
    plane, known = {HEART.name: HEART_PLANE}, {HEART.name: batch["heart"]}
    for index, protocol in enumerate(PROTOCOLS):
        for label in labels_of(protocol):
            plane[label.name] = side[label.side]
            known[label.name] = batch["sided"] & (batch["protocol"] == index)
    planes = batch["mask"][:, [plane[name] for name in labels]]
    return Targets(planes, torch.stack([known[name] for name in labels], dim=1))


def doubt_loss(doubt: Tensor, logits: Tensor, targets: Targets) -> Tensor:
    """Mean absolute error of the predicted Dice, over the channels that are known.

    Args:
        doubt: Logit of the predicted Dice, [B, C].
        logits: Of the masks, [B, C, h, w].
        targets: Of the batch.
    """
    reached = dice_of(logits.detach(), targets.planes)
    error = (doubt.sigmoid() - reached).abs() * targets.known
    return error.sum() / targets.known.sum().clamp(min=1)


@torch.no_grad()
def middle_of_error(found: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return a place in the middle of the largest error of each mask.

    Args:
        found: bool [B, n, n].
        truth: bool [B, n, n].

    Returns:
        Cells (x, y) int64 [B, 2], and what is true there int64 [B]: `INSIDE` or `OUTSIDE`.
    """
    inside = torch.stack([truth & ~found, found & ~truth], dim=1).float()
    depth = inside
    for _ in range(DEEPEST):  # what is left after each erosion lies one cell deeper
        inside = -F.max_pool2d(F.pad(-inside, (1, 1, 1, 1)), 3, stride=1)
        depth = depth + inside
    place = depth.amax(dim=1).flatten(1).argmax(dim=1)
    side = found.shape[-1]
    cells = torch.stack([place % side, place // side], dim=1)
    is_inside = truth.flatten(1).gather(1, place[:, None]).squeeze(1)
    return cells, torch.where(is_inside, INSIDE, OUTSIDE)


def correction_loss(
    network: EdgeSAM, features: Features, logits: Tensor, targets: Targets, rounds: int
) -> Tensor:
    """Mean loss of masks that clicks correct, one known structure of each image.

    Args:
        network: The network.
        features: Of its image encoder.
        logits: Of its masks without a prompt, [B, C, h, w].
        targets: Of the batch.
        rounds: Number of clicks, one after the other.

    Returns:
        Scalar: masks' and doubt's; 0 where nothing is known.
    """
    rows = targets.known.any(dim=1).nonzero().flatten()
    if not len(rows) or not rounds:
        return logits.sum() * 0
    channel = torch.multinomial(targets.known[rows].float(), 1).squeeze(1)
    own = Targets(
        targets.planes[rows, channel][:, None], torch.ones_like(channel, dtype=torch.bool)[:, None]
    )
    cells = logits.shape[-1]
    truth = F.adaptive_avg_pool2d(own.planes, cells)[:, 0] > 0.5
    mask = _spoiled(logits[rows, channel].detach()[:, None])
    seen = Features(features.quarter[rows], features.eighth[rows], features.embedding[rows])
    clicks: Clicks | None = None
    losses = []
    for _ in range(rounds):
        place, mark = middle_of_error(mask[:, 0] > 0, truth)
        pixels = (place + 0.5) * (network.image_size / cells)
        clicks = Clicks(pixels[:, None], mark[:, None]).after(clicks)
        masks, doubts = network.mask_decoder(seen, network.prompt(clicks, mask))
        each = torch.arange(len(rows), device=rows.device)
        mask, doubt = masks[each, channel][:, None].float(), doubts[each, channel][:, None].float()
        size = own.planes.shape[-2:]
        large = F.interpolate(mask, size=size, mode="bilinear", align_corners=False)
        losses.append(bce_dice(large[:, 0], own.planes[:, 0]).mean() + doubt_loss(doubt, mask, own))
        mask = mask.detach().clamp(-SURE, SURE)
    return torch.stack(losses).mean()


def _spoiled(logits: Tensor) -> Tensor:
    """Return logits [B, 1, h, w] within `SURE`, some of them with errors added."""
    count = len(logits)
    coarse = torch.randn(count, 1, 7, 7, device=logits.device)
    field = F.interpolate(coarse, logits.shape[-2:], mode="bicubic", align_corners=False)
    strength = SPOILING * torch.rand(count, 1, 1, 1, device=logits.device)
    spoiled = torch.rand(count, 1, 1, 1, device=logits.device) < SPOILED
    return logits.float().clamp(-SURE, SURE) + spoiled * strength * field
