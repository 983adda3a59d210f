"""What Lightning trains: one stage of one network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from cxrseg.trainer.adapters import RankAllocation, orthogonality, ranks
from cxrseg.trainer.checkpoint import Description
from cxrseg.trainer.losses import lung_loss, union_scores
from cxrseg.trainer.lungsam import LungSAM
from cxrseg.trainer.quantization import set_tracking
from cxrseg.trainer.recipe import StageRecipe

SETTLED = 0.75
"""Share of the QAT steps after which activation ranges are held."""


def parameter_groups(model: LungSAM, stage: StageRecipe) -> list[dict[str, Any]]:
    """Group trained parameters: encoder and decoder, matrices with weight decay, others without."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        lr = stage.lr if name.startswith("image_encoder") else stage.decoder_lr
        matrix = parameter.ndim > 1 and not name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w"))
        decay = stage.weight_decay if matrix and "lora_" not in name else 0.0
        groups.setdefault((lr, decay), []).append(parameter)
    return [
        {"params": params, "lr": lr, "weight_decay": decay}
        for (lr, decay), params in groups.items()
    ]


class Task(LightningModule):
    """Loss, optimizer, rank allocation and validation of one stage.

    Logs ``val_dice`` and ``val_iou`` (union of lungs at input size, mean over images), the same
    per source, and ``score``, the Dice that checkpoints are chosen by: it counts only once the
    ranks are final.

    Args:
        model: The network; what is to be trained requires a gradient.
        stage: Settings of the stage.
        description: What checkpoints say of the network.
        groups: Source of each validation image.
        orthogonality_weight: Weight of AdaLoRA's penalty.
    """

    def __init__(
        self,
        model: LungSAM,
        stage: StageRecipe,
        description: Description,
        groups: Sequence[str],
        orthogonality_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.stage = stage
        self.description = description
        self.groups = list(groups)
        self.orthogonality_weight = orthogonality_weight
        self.allocation: RankAllocation | None = None

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """Return the loss of a batch."""
        logits = self.model(batch["image"]).float()
        loss = lung_loss(
            logits, batch["mask"], batch["sided"], batch["protocol"], self.model.labels
        )
        self.log("loss", loss, prog_bar=True, on_step=True, on_epoch=True)
        if self.allocation is not None and self.orthogonality_weight:
            loss = loss + self.orthogonality_weight * orthogonality(self.model)
        return loss

    def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
        """Hold activation ranges in the last part of QAT."""
        if self.description.quantization is not None:
            total = self.trainer.estimated_stepping_batches
            set_tracking(self.model, self.global_step < SETTLED * total)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_index: int) -> None:
        """Update AdaLoRA's ranks while the step's gradients are still there."""
        if self.allocation is not None:
            self.allocation.step(self.global_step)

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """Score a batch."""
        dice, iou = union_scores(
            self.model(batch["image"]).float(), batch["mask"], batch["protocol"], self.model.labels
        )
        for name, values in (("val_dice", dice), ("val_iou", iou)):
            self._log_mean(name, values)
        for group in set(self.groups):
            own = [self.groups[i] == group for i in batch["index"].tolist()]
            self._log_mean(f"val_dice/{group}", dice[torch.tensor(own)])
        if self.allocation is not None and not self.allocation.is_final(self.global_step):
            # Below any Dice, and rising, so that early stopping waits for the final ranks.
            done = self.global_step / float(self.trainer.estimated_stepping_batches)
            dice = torch.where(dice.isnan(), dice, done - 1)
        self._log_mean("score", dice)

    def _log_mean(self, name: str, values: Tensor) -> None:
        values = values[~values.isnan()]
        if len(values):
            self.log(
                name,
                values.mean(),
                on_epoch=True,
                batch_size=len(values),
                sync_dist=True,
                prog_bar=name == "val_dice",
            )

    def configure_optimizers(self) -> Any:
        """AdamW with a one-cycle schedule over the whole stage."""
        groups = parameter_groups(self.model, self.stage)
        optimizer = torch.optim.AdamW(groups)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in groups],
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=self.stage.warmup,
            cycle_momentum=False,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the description and the allocator's memory, as plain data."""
        checkpoint["hyper_parameters"] = self.description.to_dict()
        if self.allocation is not None:
            checkpoint["rank_allocation"] = self.allocation.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the allocator's memory."""
        if self.allocation is not None:
            self.allocation.load_state_dict(checkpoint["rank_allocation"])

    def final_ranks(self) -> dict[str, int]:
        """Return the rank of each adapted layer, empty without adapters."""
        return ranks(self.model)
