"""Settings of adapters and quantizers: plain data, read without PyTorch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class AdapterConfig(BaseModel):
    """Ranks and schedule of AdaLoRA; plain data in recipe and checkpoint.

    Attributes:
        init_rank: Rank of every adapter at the start.
        target_rank: Average rank that the budget leaves at the end; equal to `init_rank`, ranks are
            fixed, as LoRA's are.
        alpha: Scaling; the update is P Lambda Q * alpha / init_rank.
        orthogonality: Weight of the penalty ||P^T P - I|| + ||Q Q^T - I||, averaged over adapters.
        warmup: Share of the steps before ranks are pruned.
        final: Share of the steps at the end with fixed ranks.
        interval: Steps between two allocations.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    init_rank: int = Field(12, ge=1, le=1024)
    target_rank: int = Field(8, ge=1)
    alpha: int = Field(16, ge=1, le=65_536)
    orthogonality: float = Field(0.003, ge=0, le=100)
    warmup: float = Field(0.1, ge=0, lt=1)
    final: float = Field(0.4, gt=0, lt=1)
    interval: int = Field(10, ge=1, le=1_000_000)

    @model_validator(mode="after")
    def _possible(self) -> AdapterConfig:
        if self.target_rank > self.init_rank:
            raise ValueError("target_rank must not exceed init_rank: the budget is pruned to it")
        if self.warmup + self.final >= 1:
            raise ValueError("warmup and final must leave steps for pruning between them")
        return self

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to prune."""
        return self.target_rank == self.init_rank


class QuantizationConfig(BaseModel):
    """How a model is quantized; plain data in recipe and checkpoint.

    Attributes:
        weight_bits: 7 (weights, keys and values within +-63, exact on every CPU) or 8 (+-127, needs
            VNNI).
        keep_float: Patterns of layer names, as in the shell, that stay in floating point.
        momentum: Weight of a new batch in the tracked activation ranges.
        row_scales: Divide each row of attention by its largest probability before it is rounded,
            and multiply the result: far less rounding noise where an image has hundreds of tokens
            (576 at 384 px), for a few percent of the latency.
        min_sqnr: A layer stays in floating point where its quantization alone lowers the logits'
            signal to noise ratio below this, dB.
        max_dice_loss: Or where it costs more mean Dice than this.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    weight_bits: Literal[7, 8] = 7
    keep_float: tuple[str, ...] = ()
    momentum: float = Field(0.02, gt=0, le=1)
    row_scales: bool = False
    min_sqnr: float = 10.0
    max_dice_loss: float = Field(0.005, gt=0)
