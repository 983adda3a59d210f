"""Fitting thresholds: how unlike the usual is too much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cxrseg.export.reference.observe import Observation
from cxrseg.runtime.core.labels import Protocol
from cxrseg.runtime.quality.outline_flags import cut_rule
from cxrseg.runtime.quality.reference import ReferenceStatistics
from cxrseg.runtime.quality.rules import RULES

FALSE_ALARMS = 0.003
"""Share of the good images of any source that may pass the limit of any one flag.

Rounded up to whole images, lest a single image of a small source choose the limit.
"""

MARGIN = 1.2
"""Factor between what that share reaches and the limit, where no images say what is too much."""

CLOSE = ("mirror",)
"""Limits without a margin: a mirrored image has the score of the good one with the other sign, and
each that passes has the patient's lungs swapped."""

CAUGHT = 0.95
"""Share of the suspect images that the limit for them flags at least, whatever that costs."""

Scores = dict[str, float]
"""Name in `rules.FITTED` -> what the runtime compares with that limit."""


@dataclass(frozen=True)
class Threshold:
    """A fitted limit and what it follows from.

    Attributes:
        value: Above it a flag is raised.
        good: What at most `FALSE_ALARMS` of the good images of any source exceed.
        suspect: The least of the suspect images; None where they do not count.
    """

    value: float
    good: float
    suspect: float | None = None


def score(
    observation: Observation, protocol: Protocol, statistics: ReferenceStatistics
) -> Scores | None:
    """Return what the runtime compares with the limits of a protocol.

    None where a lung is missing or there is nothing to see: the runtime flags that anyway.
    """
    outlines = observation.outlines[protocol]
    if outlines.shape is None or observation.cells is None:
        return None
    band = outlines.uncertainty / statistics.uncertainty[protocol]
    deviation = statistics.deviation(protocol, observation.cells, outlines.shape, band)
    shapes = observation.shapes(observation.outlines) or {protocol: outlines.shape}
    scores = {
        "out_of_distribution": deviation.out_of_distribution,
        "shape": deviation.shape,
        "mirror": statistics.mirror_score(observation.cells, shapes),
        "uncertain": band,
    }
    for side, share in outlines.cut.items():
        name = cut_rule(side)
        scores[name] = max(share, scores.get(name, 0))
    return scores


def choose(
    name: str, good: Mapping[str, Sequence[float]], suspect: Sequence[float] = ()
) -> Threshold:
    """Choose one limit.

    Where suspect images say what is too much the limit is the geometric mean of what the good
    images reach and of the least suspect one, but flags `CAUGHT` of the suspect ones; otherwise it
    leaves a `MARGIN`, but for those of `CLOSE`. It never falls below that of `RULES`.

    Args:
        name: Of `RULES`.
        good: Source -> scores of good images.
        suspect: Scores of images to be flagged.
    """
    floor = RULES[name].limit
    reached = max(
        float(np.quantile(scores, 1 - FALSE_ALARMS, method="lower")) for scores in good.values()
    )
    if not len(suspect):
        margin = 1 if name in CLOSE else MARGIN
        return Threshold(max(floor, margin * reached), reached)
    least = float(min(suspect))
    # Rounded down: the image at the quantile itself must exceed the limit.
    caught = float(np.quantile(suspect, 1 - CAUGHT, method="lower")) * (1 - 1e-3)
    return Threshold(max(floor, min((reached * least) ** 0.5, caught)), reached, least)
