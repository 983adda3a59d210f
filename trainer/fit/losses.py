"""Loss and score of lung logits, across label protocols."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cxrseg.runtime.core.labels import HEART, PROTOCOLS, labels_of
from cxrseg.trainer.data.planes import HEART_PLANE

NO_PROTOCOL = -1
"""What stands for the protocol of an image that is not to be learned from."""


def channels_of(labels: Sequence[str]) -> dict[int, tuple[int | None, int | None]]:
    """Return protocol index -> channel of the right and of the left lung."""
    channels: dict[int, tuple[int | None, int | None]] = {}
    for index, protocol in enumerate(PROTOCOLS):
        sides: dict[str, int] = {}
        for label in labels_of(protocol):
            if label.name in labels:
                sides[label.side] = list(labels).index(label.name)
        if sides:
            channels[index] = (sides.get("right"), sides.get("left"))
    return channels


def bce_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy plus soft Dice loss, per image.

    Args:
        logits: [B, H, W].
        target: [B, H, W] in [0, 1].

    Returns:
        [B].
    """
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=(1, 2))
    probability = logits.sigmoid()
    overlap = (probability * target).sum(dim=(1, 2))
    total = probability.sum(dim=(1, 2)) + target.sum(dim=(1, 2))
    return bce + 1 - (2 * overlap + 1) / (total + 1)


def lung_loss(
    logits: Tensor, mask: Tensor, sided: Tensor, protocol: Tensor, labels: Sequence[str]
) -> Tensor:
    """Mean loss of a batch that mixes protocols, and masks with and without sides.

    Each image is judged on the channels of its own protocol: on the union of its lungs (the
    larger of both logits, as the runtime takes it), and on each lung where they are told apart.

    Args:
        logits: [B, C, h, w]; upsampled to the mask's size.
        mask: [B, 3 or more, H, W]: right, left, union, in [0, 1].
        sided: bool [B].
        protocol: int64 [B], index into `PROTOCOLS`, or `NO_PROTOCOL`.
        labels: Names of the C channels.

    Returns:
        Scalar; 0 when no image has a channel.
    """
    logits = F.interpolate(logits, size=mask.shape[-2:], mode="bilinear", align_corners=False)
    losses = [logits.sum(dim=(1, 2, 3))[:0]]
    for index, channels in channels_of(labels).items():
        own = protocol == index
        lungs = [logits[:, c] for c in channels if c is not None]
        if not bool(own.any()):
            continue
        if len(lungs) == 2:
            losses.append(bce_dice(torch.maximum(*lungs)[own], mask[own, 2]))
        for plane, channel in enumerate(channels):
            told = own & sided
            if channel is not None and bool(told.any()):
                losses.append(bce_dice(logits[told, channel], mask[told, plane]))
    every = torch.cat(losses)
    return every.mean() if every.numel() else logits.sum() * 0


@torch.no_grad()
def dice_of(logits: Tensor, planes: Tensor) -> Tensor:
    """Return the Dice [B, C] of logits [B, C, h, w] with planes [B, C, s, s], at size s.

    Nothing where there is nothing is 1.
    """
    size = planes.shape[-2:]
    found = F.interpolate(logits, size=size, mode="bilinear", align_corners=False) > 0
    truth = planes > 0.5
    overlap, total = (x.sum((2, 3)) for x in (found & truth, found.int() + truth.int()))
    return torch.where(total > 0, 2 * overlap / total.clamp(min=1), 1)


def heart_loss(logits: Tensor, mask: Tensor, drawn: Tensor, labels: Sequence[str]) -> Tensor:
    """Loss of the heart, of the images where it is drawn, per image of the batch.

    Args:
        logits: [B, C, h, w]; upsampled to the mask's size.
        mask: [B, 4, H, W] in [0, 1], as `cxrseg.trainer.data.planes` orders them.
        drawn: bool [B], whether the image has a mask of the heart.
        labels: Names of the C channels.

    Returns:
        Scalar; 0 when there is no channel for the heart, or no heart.
    """
    if HEART.name not in labels or not bool(drawn.any()):
        return logits.sum() * 0
    channel = logits[drawn][:, [list(labels).index(HEART.name)]]
    size = mask.shape[-2:]
    found = F.interpolate(channel, size=size, mode="bilinear", align_corners=False)[:, 0]
    return bce_dice(found, mask[drawn, HEART_PLANE]).sum() / len(logits)


@torch.no_grad()
def heart_dice(logits: Tensor, mask: Tensor, drawn: Tensor, labels: Sequence[str]) -> Tensor:
    """Dice of the heart at the size of the mask: [N], of the images where it is drawn.

    Args:
        logits: [B, C, h, w].
        mask: [B, 4, H, W] in [0, 1].
        drawn: bool [B].
        labels: Names of the C channels.
    """
    if HEART.name not in labels:
        return logits.new_zeros(0)
    channel = logits[drawn][:, [list(labels).index(HEART.name)]]
    return dice_of(channel, mask[drawn][:, [HEART_PLANE]]).squeeze(1)


@torch.no_grad()
def mislabeled(logits: Tensor, mask: Tensor, protocol: Tensor, labels: Sequence[str]) -> Tensor:
    """Tell which masks the network finds to follow another protocol than their label says.

    A mask is compared, by soft Dice of the union of lungs, with what the network finds under each
    of its protocols. It means something once the network tells the protocols apart.

    Args:
        logits: [B, C, h, w].
        mask: [B, 3, H, W] in [0, 1].
        protocol: int64 [B], the protocol that each mask is labeled with.
        labels: Names of the C channels.

    Returns:
        bool [B]; False where the model has no channel for the image's protocol, or no other.
    """
    height, width = logits.shape[-2:]
    truth = F.adaptive_avg_pool2d(mask[:, 2], (height, width))
    agreement = logits.new_full((len(logits), len(PROTOCOLS)), -1.0)
    for index, channels in channels_of(labels).items():
        used = [c for c in channels if c is not None]
        lungs = logits[:, used].amax(dim=1).sigmoid()
        overlap = (lungs * truth).sum(dim=(1, 2))
        total = (lungs + truth).sum(dim=(1, 2))
        agreement[:, index] = (2 * overlap + 1) / (total + 1)
    own = agreement.gather(1, protocol[:, None]).squeeze(1)
    return (own >= 0) & (agreement.amax(dim=1) > own)


@torch.no_grad()
def union_scores(
    logits: Tensor, mask: Tensor, protocol: Tensor, labels: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Dice and IoU of the union of lungs, at the size of the mask.

    Args:
        logits: [B, C, h, w].
        mask: [B, 3, H, W] in [0, 1].
        protocol: int64 [B].
        labels: Names of the C channels.

    Returns:
        Two float tensors [B]; NaN where the model has no channel for the image's protocol.
    """
    logits = F.interpolate(logits, size=mask.shape[-2:], mode="bilinear", align_corners=False)
    truth = mask[:, 2] > 0.5
    dice = torch.full((len(logits),), torch.nan, device=logits.device)
    iou = dice.clone()
    for index, channels in channels_of(labels).items():
        own = (protocol == index).nonzero().flatten()
        used = [c for c in channels if c is not None]
        lungs = (logits[:, used] > 0).any(dim=1)
        for i in own.tolist():
            overlap = float((lungs[i] & truth[i]).sum())
            total = float(lungs[i].sum() + truth[i].sum())
            dice[i] = 2 * overlap / total if total else 1.0
            iou[i] = overlap / (total - overlap) if total else 1.0
    return dice, iou
