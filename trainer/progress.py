"""Checkpoints while a stage runs."""

from __future__ import annotations

import time
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer


class KeepLast(Callback):
    """Save the whole state of training at every epoch's end, every few minutes, and on Ctrl-C.

    The file is replaced whole, so a kill at any time leaves the one before.

    Args:
        path: Where to.
        minutes: Time between two checkpoints within an epoch.
    """

    def __init__(self, path: Path, minutes: float) -> None:
        self.path = path
        self.seconds = 60 * minutes
        self.saved_at = time.monotonic()
        self.saved_step = -1

    def _save(self, trainer: Trainer) -> None:
        beside = self.path.with_name(f".{self.path.name}.part")
        trainer.save_checkpoint(beside)
        if trainer.is_global_zero:
            beside.replace(self.path)
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Save when the time has come."""
        due = time.monotonic() - self.saved_at > self.seconds
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        self._save(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save on Ctrl-C; after any other error the last good checkpoint stays."""
        interrupted = isinstance(exception, KeyboardInterrupt)
        if interrupted and not trainer.sanity_checking and trainer.global_step > self.saved_step:
            self._save(trainer)
