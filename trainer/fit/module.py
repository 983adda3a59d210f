"""What Lightning trains: one stage of one network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric

from cxrseg.trainer.adapt.adapters import RankAllocation, orthogonality, ranks
from cxrseg.trainer.adapt.quantization import freeze_observers
from cxrseg.trainer.data.dataset import Batch, prepared, varied
from cxrseg.trainer.fit.checkpoint import Description
from cxrseg.trainer.fit.clicks import correction_loss, doubt_loss, targets_of
from cxrseg.trainer.fit.distillation import Teacher, distillation_loss
from cxrseg.trainer.fit.losses import (
    NO_PROTOCOL,
    heart_dice,
    heart_loss,
    lung_loss,
    mislabeled,
    union_scores,
)
from cxrseg.trainer.networks.edge import EdgeSAM
from cxrseg.trainer.recipe import AugmentRecipe, StageRecipe

FREEZE_OBSERVERS = 0.75
"""Share of the QAT steps after which the observers of activation ranges are frozen."""

CORRECTIONS = 0.5
"""Weight of the loss of corrected masks beside that of masks without a prompt."""

DEVICES = "world_size"
"""What a checkpoint calls the number of devices that it was trained on."""

DECODER = ("prompt_encoder.", "mask_decoder.")
"""How the names of parameters begin that have a learning rate of their own."""


def parameter_groups(model: nn.Module, stage: StageRecipe) -> list[dict[str, Any]]:
    """Group trained parameters: encoder and decoder, matrices with weight decay, others without."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        lr = stage.decoder_lr if name.startswith(DECODER) else stage.lr
        matrix = parameter.ndim > 1 and not name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w"))
        decay = stage.weight_decay if matrix and "lora_" not in name else 0.0
        groups.setdefault((lr, decay), []).append(parameter)
    return [
        {"params": params, "lr": lr, "weight_decay": decay}
        for (lr, decay), params in groups.items()
    ]


def one_cycle(
    optimizer: torch.optim.Optimizer, steps: int, warmup: float
) -> torch.optim.lr_scheduler.OneCycleLR:
    """Return a one-cycle schedule that peaks at the groups' own learning rates.

    Args:
        optimizer: What it drives.
        steps: Number of steps, at least one.
        warmup: Share of the steps in which the rate rises; two steps at least, and one in which it
            falls, because PyTorch divides by zero where it is one or none.
    """
    steps = max(steps, 3)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=steps,
        pct_start=max(warmup, 2 / steps),
        cycle_momentum=False,
    )


class Task(LightningModule):
    """Loss, optimizer, rank allocation and validation of one stage.

    Logs ``val_dice`` and ``val_iou`` (union of lungs at input size, mean over images), the Dice
    per source, ``val_heart`` (Dice of the heart), and ``score``, the ``val_dice`` that checkpoints
    are chosen by: it counts only once the ranks are final.

    Args:
        model: The network, float32 images [B, 1, S, S] -> logits [B, C, S / 4, S / 4]; what is to
            be trained requires a gradient.
        stage: Settings of the stage.
        description: What checkpoints say of the network.
        augment: How training images are varied.
        groups: Source of each validation image.

    Attributes:
        teachers: Whom to learn from besides the masks, as much as the stage says.
        allocation: What shares out the ranks of the adapters, where there are any.
    """

    def __init__(
        self,
        model: nn.Module,
        stage: StageRecipe,
        description: Description,
        augment: AugmentRecipe,
        groups: Sequence[str],
    ) -> None:
        super().__init__()
        self.model = model
        self.stage = stage
        self.description = description
        self.augment = augment
        self.groups = list(groups)
        self.group_names = sorted(set(self.groups))
        self.mean_names = [
            "val_dice",
            "val_iou",
            "val_heart",
            *(f"val_dice/{g}" for g in self.group_names),
        ]
        self.means: Any = nn.ModuleList(MeanMetric(nan_strategy="disable") for _ in self.mean_names)
        # No submodule: checkpoints and the average of weights are the student's alone.
        self.teachers: Sequence[Teacher] = ()
        self.allocation: RankAllocation | None = None
        self._seconds_before = 0.0
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """Wall time of the training so far, of all calls that it took, in s."""
        own = 0.0 if self._started is None else time.monotonic() - self._started
        return self._seconds_before + own

    def on_fit_start(self) -> None:
        """Start the clock, and bring the teachers to the student's device."""
        for teacher in self.teachers:
            teacher.model.to(self.device)
        self._started = time.monotonic()

    @torch.no_grad()
    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turn bytes on the device into images and masks, varied in training."""
        spec = self.description.preprocessing
        if self.trainer.training:
            return varied(batch, spec, self.augment)
        return prepared(batch, spec)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of a batch."""
        corrections: Tensor | None = None
        if self.stage.clicks and isinstance(self.model, EdgeSAM):
            logits, corrections = self._corrected(self.model, batch)
        else:
            logits = self.model(batch["image"]).float()
        labels, protocol = self.description.labels, batch["protocol"]
        if self.stage.skip_mislabeled:
            skipped = mislabeled(logits, batch["mask"], protocol, labels)
            self.log("mislabeled", skipped.float().mean(), on_step=False, on_epoch=True)
            protocol = protocol.masked_fill(skipped, NO_PROTOCOL)
        loss = lung_loss(logits, batch["mask"], batch["sided"], protocol, labels)
        loss = loss + heart_loss(logits, batch["mask"], batch["heart"], labels)
        if corrections is not None:
            self.log("corrections", corrections, on_step=False, on_epoch=True)
            loss = loss + CORRECTIONS * corrections
        if self.teachers:
            share = self.stage.distillation
            distilled = distillation_loss(self.teachers, batch["image"], logits, labels)
            self.log("distillation", distilled, on_step=False, on_epoch=True)
            loss = (1 - share) * loss + share * distilled
        self.log("loss", loss, prog_bar=True, on_step=True, on_epoch=True)
        adapters = self.description.adapters
        if self.allocation is not None and adapters is not None and adapters.orthogonality:
            loss = loss + adapters.orthogonality * orthogonality(self.model)
        return loss

    def _corrected(self, model: EdgeSAM, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits without a prompt, and the loss of corrected masks and of doubt."""
        features = model.image_encoder(batch["image"])
        masks, doubt = model.mask_decoder(features, model.no_prompt())
        logits, targets = masks.float(), targets_of(batch, self.description.labels)
        loss = correction_loss(model, features, logits, targets, self.stage.clicks)
        return logits, loss + doubt_loss(doubt.float(), logits, targets)

    def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
        """Freeze the observers of activation ranges in the last part of QAT."""
        if self.description.quantization is not None:
            total = self.trainer.estimated_stepping_batches
            freeze_observers(self.model, self.global_step >= FREEZE_OBSERVERS * total)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Score a batch."""
        logits = self.model(batch["image"]).float()
        dice, iou = union_scores(logits, batch["mask"], batch["protocol"], self.description.labels)
        self._add("val_dice", dice)
        self._add("val_iou", iou)
        labels = self.description.labels
        self._add("val_heart", heart_dice(logits, batch["mask"], batch["heart"], labels))
        for group in self.group_names:
            own = [self.groups[i] == group for i in batch["index"].tolist()]
            self._add(f"val_dice/{group}", dice[torch.tensor(own, device=dice.device)])

    def _add(self, name: str, values: Tensor) -> None:
        values = values[~values.isnan()]
        if len(values):
            self.means[self.mean_names.index(name)].update(values)

    def on_validation_epoch_end(self) -> None:
        """Log the means over all images and devices, in the same order on every device."""
        final = self.allocation is None or self.allocation.is_final(self.global_step)
        for name, mean in zip(self.mean_names, self.means, strict=True):
            value = torch.as_tensor(mean.compute())
            mean.reset()
            if value.isnan():
                continue
            self.log(name, value, prog_bar=name == "val_dice")
            if name == "val_dice":
                # Below any Dice, and rising, so that early stopping waits for the final ranks.
                waiting = value.new_tensor(-1 / (1 + self.global_step))
                self.log("score", value if final else waiting)

    def configure_optimizers(self) -> Any:
        """AdamW with a one-cycle schedule over the whole stage."""
        groups = parameter_groups(self.model, self.stage)
        optimizer = torch.optim.AdamW(groups)
        schedule = one_cycle(
            optimizer, int(self.trainer.estimated_stepping_batches), self.stage.warmup
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add description, time, number of devices and the allocator's memory, as plain data."""
        checkpoint["hyper_parameters"] = self.description.to_dict()
        checkpoint["seconds"] = self.seconds
        checkpoint[DEVICES] = self.trainer.world_size
        if self.allocation is not None:
            checkpoint["rank_allocation"] = self.allocation.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the time taken and the allocator's memory."""
        # Checkpoints of older versions do not tell it.
        self._seconds_before = float(checkpoint.get("seconds", 0.0))
        if self.allocation is not None:
            self.allocation.load_state_dict(checkpoint["rank_allocation"])

    def final_ranks(self) -> dict[str, int]:
        """Return the rank of each adapted layer, empty without adapters."""
        return ranks(self.model)
