"""The rows of ``cxrseg-bench methods``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LEVELS = 5
"""Levels of a U-Net: each but the first halves the side of an image, a multiple of 16."""

Precision = Literal["fp32", "int8"]


@dataclass(frozen=True)
class Row:
    """A way to train.

    Attributes:
        name: What the command calls it.
        title: What the table calls it.
        method: The recipe's method; None for a U-Net.
        precisions: Of the files that are exported and measured.
        features: Of a U-Net, as it takes them by default.
        after: The row whose stage 1 it goes on from.
    """

    name: str
    title: str
    method: Literal["full", "decoder", "adalora"] | None
    precisions: tuple[Precision, ...]
    features: tuple[int, ...] = ()
    after: str | None = None


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row("full", "full fine-tuning", "full", ("fp32",)),
        Row("decoder", "decoder only", "decoder", ("fp32",)),
        Row("lora", "LoRA, fixed rank", "adalora", ("fp32",)),
        Row("adalora", "AdaLoRA", "adalora", ("fp32",)),
        Row("adalora-ptq", "AdaLoRA + PTQ", "adalora", ("int8",), after="adalora"),
        Row("adalora-qat", "AdaLoRA-QAT", "adalora", ("int8",), after="adalora"),
        Row("unet-size", "U-Net, same size", None, ("fp32", "int8"), (40, 80, 160, 320, 640)),
        Row("unet-latency", "U-Net, same latency", None, ("fp32", "int8"), (24, 48, 96, 192, 384)),
    )
}
