"""What happens between the steps of a stage: rank allocation, average weights, checkpoints."""

from __future__ import annotations

import math
import time
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EMAWeightAveraging
from lightning.pytorch.utilities.exceptions import SIGTERMException

from cxrseg.runtime.files.atomic import put_in_place
from cxrseg.runtime.files.opening import place_of
from cxrseg.trainer.adapt.adapters import RANK, TOTAL_RANK, RankAllocation


class AllocateRanks(Callback):
    """Update AdaLoRA's ranks after each step, while the step's gradients are still there.

    A callback, because callbacks run before the module's own hook, and a checkpoint of the step
    must hold its allocation.

    Logs ``rank/total``, and ``rank/`` with the name of each layer, when the budget is allocated.

    Args:
        allocation: The allocator.
    """

    def __init__(self, allocation: RankAllocation) -> None:
        self.allocation = allocation

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Allocate."""
        if self.allocation.step(trainer.global_step):
            ranks = self.allocation.ranks()
            metrics = {f"{RANK}{name}": float(rank) for name, rank in ranks.items()}
            metrics[TOTAL_RANK] = float(sum(ranks.values()))
            # Not through the module's own log, which keeps to every tenth step.
            for logger in trainer.loggers:
                logger.log_metrics(dict(metrics), trainer.global_step)


class EMA(EMAWeightAveraging):
    """Validate and keep a moving average of the weights (Polyak averaging) while training.

    Lightning's callback exchanges the two sets of weights for a validation, and puts the average in
    the place of the weights of checkpoints that are saved whole. An exchange that Ctrl-C finds done
    is undone before `KeepLast` saves, and the average is let go when training has ended, so that
    the best weights can be validated as they are.

    Args:
        decay: Share of the average that each step keeps.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(decay=decay)
        self._exchanged = False

    # Lightning tells of its exchanges nowhere else.
    def _swap_models(self, pl_module: LightningModule) -> None:
        super()._swap_models(pl_module)
        self._exchanged = not self._exchanged

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the average go, also when there was nothing left to train."""
        self._average_model = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the model the weights that are trained back."""
        if self._exchanged:
            self._swap_models(pl_module)


class KeepLast(Checkpoint):
    """Save the whole state of training at every epoch's end, every few minutes, and when stopped.

    The file is replaced whole, once it is on the disk, so a kill at any time leaves the one before.
    As a `Checkpoint` it runs after the other callbacks, in the order given, and so saves what they
    know of the epoch.

    Args:
        path: Where to.
        minutes: Time between two checkpoints within an epoch.
    """

    def __init__(self, path: Path, minutes: float) -> None:
        self.path = path
        self.seconds = 60 * minutes
        self.saved_at = time.monotonic()
        # Until training goes on from the last file there is nothing that it lacks.
        self.saved_step: float = math.inf

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note where training goes on from; at step 0 no file is there yet."""
        self.saved_step = trainer.global_step or -1

    def _save(self, trainer: Trainer) -> None:
        part = self.path.with_name(f".{self.path.name}.part")
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            put_in_place({place_of(self.path): part})
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
        """Save on Ctrl-C and SIGTERM; after any other error the last good checkpoint stays."""
        interrupted = isinstance(exception, KeyboardInterrupt | SIGTERMException)
        if interrupted and not trainer.sanity_checking and trainer.global_step > self.saved_step:
            self._save(trainer)
