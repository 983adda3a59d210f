"""Learning from what other networks find (knowledge distillation: Hinton et al. 2015).

Teachers see the very image that the student sees, augmented alike, and give logits under every
protocol, also under those that no reader drew. Networks of other kinds err differently, so
that the mean of several is a better teacher than each of them (Dietterich 2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxrseg.trainer.fit.checkpoint import load
from cxrseg.trainer.fit.losses import bce_dice


@dataclass(frozen=True)
class Teacher:
    """A trained network that learns nothing more.

    Attributes:
        model: float32 images [B, 1, S, S] -> logits [B, C, S / 4, S / 4], in evaluation mode.
        labels: Names of the C channels.
        size: S; images of other sizes are resized for it.
    """

    model: nn.Module
    labels: tuple[str, ...]
    size: int

    @torch.no_grad()
    def logits(self, image: Tensor) -> Tensor:
        """Return the teacher's logits.

        Args:
            image: float32 [B, 1, H, H] in [0, 1].

        Returns:
            float32 [B, C, S / 4, S / 4]; above 0 is lung.
        """
        side = (self.size, self.size)
        if image.shape[-2:] != side:
            image = F.interpolate(
                image, size=side, mode="bilinear", align_corners=False, antialias=True
            )
        return torch.as_tensor(self.model(image)).float()


def load_teacher(path: Path) -> Teacher:
    """Read the checkpoint of any network of ``cxrseg-train``.

    Raises:
        CxrsegError: The file is missing, unsafe, of another program, or damaged.
    """
    loaded = load(path)
    description = loaded.description
    size = description.preprocessing.size
    return Teacher(loaded.model.requires_grad_(False), description.labels, size)


def distillation_loss(
    teachers: Sequence[Teacher], image: Tensor, logits: Tensor, labels: Sequence[str]
) -> Tensor:
    """Mean loss of a student against its teachers, over images and the channels that they have.

    Args:
        teachers: Each channel is taught by the mean of the logits of those that have it; one
            teacher has a channel of the student at least.
        image: float32 [B, 1, S, S] in [0, 1], what the student saw.
        logits: Of the student, [B, C, h, w].
        labels: Names of the C channels.

    Returns:
        Scalar.
    """
    size = logits.shape[-2:]
    answers = [
        F.interpolate(teacher.logits(image), size=size, mode="bilinear", align_corners=False)
        for teacher in teachers
    ]
    losses = []
    for channel, name in enumerate(labels):
        targets = [
            answer[:, teacher.labels.index(name)]
            for teacher, answer in zip(teachers, answers, strict=True)
            if name in teacher.labels
        ]
        if targets:
            target = torch.stack(targets).mean(dim=0).sigmoid()
            losses.append(bce_dice(logits[:, channel], target))
    return torch.cat(losses).mean()
