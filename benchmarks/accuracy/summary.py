"""The figures of many images: each measure's distribution, per group and over all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from cxrseg.benchmarks.accuracy.metrics import bootstrap_interval
from cxrseg.benchmarks.accuracy.scoring import SIDES, Agreement, Score
from cxrseg.runtime.core.labels import Side

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
    ci95: tuple[float, float] | None


Figures = Mapping[str, Spread | None]
"""One of `MEASURES` -> its distribution; None where no image tells it, as mm without spacing."""


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
    """

    images: int
    patients: int
    flagged: int
    sided: int
    swapped: int
    missing: int
    union: Figures
    lungs: Mapping[Side, Figures]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, the measures of the union beside the counts."""
        plain = asdict(self)
        union = plain.pop("union")
        lungs = plain.pop("lungs")
        return {**plain, **union, "lungs": lungs or None}


def summarize(scores: Sequence[Score], seed: int = 0) -> Summary:
    """Return the figures of a group of images.

    Args:
        scores: At least one.
        seed: Seed of the bootstrap.
    """
    sided = [each for each in scores if each.lungs]
    patients = [each.patient for each in sided]
    return Summary(
        images=len(scores),
        patients=len({each.patient for each in scores}),
        flagged=sum(bool(each.flags) for each in scores),
        sided=len(sided),
        swapped=sum(each.swapped for each in sided),
        missing=sum(bool(each.missing) for each in sided),
        union=_figures([each.union for each in scores], [each.patient for each in scores], seed),
        lungs={
            side: _figures([each.lungs[side] for each in sided], patients, seed)
            for side in SIDES
            if sided
        },
    )


def _figures(agreements: Sequence[Agreement], patients: Sequence[str], seed: int) -> Figures:
    figures: dict[str, Spread | None] = {}
    for name in MEASURES:
        values = [getattr(each, name) for each in agreements]
        known = [i for i, value in enumerate(values) if value is not None]
        figures[name] = (
            _spread([values[i] for i in known], [patients[i] for i in known], seed)
            if known
            else None
        )
    return figures


def _spread(values: Sequence[float], patients: Sequence[str], seed: int) -> Spread:
    interval = bootstrap_interval(values, patients, seed)
    return Spread(
        images=len(values),
        mean=round(float(np.mean(values)), DIGITS),
        sd=round(float(np.std(values, ddof=1)), DIGITS) if len(values) > 1 else 0.0,
        median=round(float(np.median(values)), DIGITS),
        p5=round(float(np.percentile(values, 5)), DIGITS),
        p95=round(float(np.percentile(values, 95)), DIGITS),
        ci95=None if interval is None else (round(interval[0], DIGITS), round(interval[1], DIGITS)),
    )


def summaries(scores: Sequence[Score], by: str | None, seed: int = 0) -> dict[str, Summary]:
    """Return the figures of each group, by name, and last those of `ALL` images.

    Args:
        scores: At least one.
        by: Name of the grouping column; None = no groups.
        seed: Seed of the bootstrap.
    """
    groups: dict[str, list[Score]] = {}
    if by:
        for each in sorted(scores, key=lambda each: each.group):
            groups.setdefault(f"{by} {each.group}", []).append(each)
    groups[ALL] = list(scores)
    return {name: summarize(members, seed) for name, members in groups.items()}


def worst(scores: Sequence[Score], count: int = WORST) -> list[int]:
    """Return where the images of the lowest Dice stand in `scores`, lowest first."""
    return sorted(range(len(scores)), key=lambda i: (scores[i].union.dice, scores[i].image))[:count]
