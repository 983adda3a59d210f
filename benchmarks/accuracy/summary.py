"""The figures of many images: each measure's distribution, per group and over all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import numpy as np

from cxrseg.benchmarks.accuracy.intervals import Interval, bootstrap_interval
from cxrseg.benchmarks.accuracy.scoring import SIDES, Agreement, Score
from cxrseg.runtime.core.labels import Side

Item = TypeVar("Item")

ALL = "all"
"""Name of the group that holds every image."""

WORST = 10
"""Number of images listed by name for their low Dice."""

DIGITS = 6
"""Digits behind the point of every recorded figure."""

MEASURES = tuple(field.name for field in fields(Agreement))
"""Names of the measures, those of `Agreement`."""


@dataclass(frozen=True)
class Spread:
    """Distribution of one measure over images, in the measure's unit.

    Attributes:
        images: Number of images that it is known of.
        mean: Mean over images.
        sd: Sample standard deviation; 0 for one image.
        median: Median.
        p5: 5th percentile, the bad end of an overlap.
        p95: 95th percentile, the bad end of a distance.
        ci95: Bootstrap interval of the mean over patients; None with fewer than two patients.
    """

    images: int
    mean: float
    sd: float
    median: float
    p5: float
    p95: float
    ci95: Interval | None


Figures = Mapping[str, Spread | None]
"""One of `MEASURES` -> its distribution; None where no image tells it, as mm without spacing."""


@dataclass(frozen=True)
class Mislabeled:
    """Masks of one group that agree better with the other label protocol.

    Attributes:
        mislabeled: Number of those masks.
        mean_dice_mislabeled: Mean Dice of their images under their own protocol; None without any.
        mean_dice_others: Mean Dice of the other images; None without any.
    """

    mislabeled: int
    mean_dice_mislabeled: float | None
    mean_dice_others: float | None


@dataclass(frozen=True)
class Summary:
    """Figures of one group of images.

    Attributes:
        images: Number of images.
        patients: Number of patients.
        flagged: Number of images with a quality flag.
        sided: Number of images whose reference tells right from left.
        swapped: Number of those with right and left swapped.
        missing: Number of those with a lung that was not found.
        union: Figures of both lungs together.
        lungs: Side -> figures of that lung over the sided images; empty without any.
        mislabeled: Masks that fit the other label protocol; None where that was not checked.
    """

    images: int
    patients: int
    flagged: int
    sided: int
    swapped: int
    missing: int
    union: Figures
    lungs: Mapping[Side, Figures]
    mislabeled: Mislabeled | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, the measures of the union beside the counts."""
        plain = asdict(self)
        union, lungs, mislabeled = (plain.pop(name) for name in ("union", "lungs", "mislabeled"))
        return rounded({**plain, **(mislabeled or {}), **union, "lungs": lungs or None})


def summaries(scores: Sequence[Score], by: str | None, seed: int = 0) -> dict[str, Summary]:
    """Return the figures of each group, by name, and last those of `ALL` images.

    Args:
        scores: At least one.
        by: Name of the grouping column; None = no groups.
        seed: Seed of the bootstrap.
    """
    groups = grouped(scores, [score.group for score in scores], by)
    return {name: summarize(members, seed) for name, members in groups.items()}


def grouped(items: Sequence[Item], groups: Sequence[str], by: str | None) -> dict[str, list[Item]]:
    """Return the items of each group, called ``column value``, and last `ALL` of them.

    Args:
        items: At least one.
        groups: The value of each in the grouping column.
        by: Name of the grouping column; None = no groups.
    """
    found: dict[str, list[Item]] = {f"{by} {group}": [] for group in sorted({*groups}) if by}
    for item, group in zip(items, groups, strict=True):
        if by:
            found[f"{by} {group}"].append(item)
    return {**found, ALL: list(items)}


def summarize(scores: Sequence[Score], seed: int = 0) -> Summary:
    """Return the figures of a group of images.

    Args:
        scores: At least one.
        seed: Seed of the bootstrap.
    """
    sided = [score for score in scores if score.lungs]
    patients = [score.patient for score in scores]
    sided_patients = [score.patient for score in sided]
    return Summary(
        images=len(scores),
        patients=len({*patients}),
        flagged=sum(bool(score.flags) for score in scores),
        sided=len(sided),
        swapped=sum(score.swapped for score in sided),
        missing=sum(bool(score.missing) for score in sided),
        union=_figures([score.union for score in scores], patients, seed),
        lungs={
            side: _figures([score.lungs[side] for score in sided], sided_patients, seed)
            for side in SIDES
            if sided
        },
        mislabeled=_mislabeled(scores),
    )


def _figures(agreements: Sequence[Agreement], patients: Sequence[str], seed: int) -> Figures:
    figures: dict[str, Spread | None] = {}
    for name in MEASURES:
        values = [getattr(agreement, name) for agreement in agreements]
        known = [i for i, value in enumerate(values) if value is not None]
        figures[name] = (
            _spread([values[i] for i in known], [patients[i] for i in known], seed)
            if known
            else None
        )
    return figures


def _spread(values: Sequence[float], patients: Sequence[str], seed: int) -> Spread:
    p5, median, p95 = (float(value) for value in np.percentile(values, (5, 50, 95)))
    return Spread(
        images=len(values),
        mean=float(np.mean(values)),
        sd=float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        median=median,
        p5=p5,
        p95=p95,
        ci95=bootstrap_interval(values, patients, seed),
    )


def _mislabeled(scores: Sequence[Score]) -> Mislabeled | None:
    if any(score.dice_other is None for score in scores):
        return None
    mislabeled = [score.union.dice for score in scores if score.mislabeled]
    others = [score.union.dice for score in scores if not score.mislabeled]
    means = [float(np.mean(values)) if values else None for values in (mislabeled, others)]
    return Mislabeled(len(mislabeled), *means)


def rounded(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain data, for JSON, with every float in it rounded to `DIGITS`."""
    return {name: _rounded(value) for name, value in plain.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, Mapping):
        return rounded(value)
    if isinstance(value, (list, tuple)):
        return [_rounded(part) for part in value]
    return value


def worst(scores: Sequence[Score], count: int = WORST) -> list[int]:
    """Return where the images of the lowest Dice stand in `scores`, lowest first."""
    return sorted(range(len(scores)), key=lambda i: (scores[i].union.dice, scores[i].image))[:count]
