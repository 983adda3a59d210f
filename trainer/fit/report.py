"""What a stage of training came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StageReport:
    """Figures of one finished stage.

    Attributes:
        name: ``stage 1`` or ``stage 2``.
        metrics: ``val_dice``, ``val_iou`` and Dice per source.
        trainable: Number of trained parameters.
        total: Number of parameters.
        ranks: Rank of each adapted layer.
        images: Number of images that were trained on, repetitions included.
        seconds: Wall time of the training, all calls that it took together.
    """

    name: str
    metrics: dict[str, float]
    trainable: int
    total: int
    ranks: dict[str, int]
    images: int
    seconds: float


def table(reports: Sequence[StageReport]) -> list[str]:
    """Return the lines of a run's closing table."""
    lines = [f"{'':9} {'Dice':>7} {'IoU':>7} {'trained':>12} {'of':>12} {'seconds':>9}"]
    for report in reports:
        dice = report.metrics.get("val_dice", float("nan"))
        iou = report.metrics.get("val_iou", float("nan"))
        lines.append(
            f"{report.name:9} {dice:7.4f} {iou:7.4f} {report.trainable:12,} {report.total:12,} "
            f"{report.seconds:9.0f}"
        )
        for name, value in sorted(report.metrics.items()):
            if "/" in name:
                lines.append(f"  {name.removeprefix('val_dice/'):24} Dice {value:.4f}")
    ranks = reports[-1].ranks if reports else {}
    if ranks:
        lines.append(f"ranks, {sum(ranks.values())} in all:")
        blocks: dict[str, list[str]] = {}
        for name, rank in ranks.items():
            _, _, block, *rest = name.split(".")
            kind = [part for part in rest if part not in ("layer", "attn", "mlp", "qkv")]
            blocks.setdefault(block, []).append(f"{kind[0]} {rank:2}")
        lines += [f"  block {block:>2}: {'  '.join(parts)}" for block, parts in blocks.items()]
    return lines
