"""Fitting the quality reference of a model: its statistics, then the limits that follow."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cxrseg.export.reference.images import SourceImage
from cxrseg.export.reference.observe import Observation, observe
from cxrseg.export.reference.statistics import SUBJECT, alike, fit_statistics
from cxrseg.export.reference.thresholds import Scores, Threshold, choose, score
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import Protocol
from cxrseg.runtime.inference.loading import LoadedModel
from cxrseg.runtime.quality.reference import Reference, ReferenceStatistics
from cxrseg.runtime.quality.rules import FITTED

FOLDS = 5
"""Good images are judged by what is usual in the other folds, as new ones will be."""

LIMIT = 1000
"""Images of each source and split that are enough."""

Judged = tuple[Observation, ReferenceStatistics]
"""A good image, and what is usual in the folds of other patients."""


@dataclass(frozen=True)
class ProtocolFit:
    """The limits of a protocol, and how they do on the images that they were fitted to.

    Attributes:
        thresholds: Name in `FITTED` -> limit.
        alarms: Source -> number of ``images``, then share of them above each limit and above
            ``any``, judged by what is usual in the other folds.
        mirrored: Source -> share of the good images that would be flagged as mirrored if they were,
            judged like the alarms.
        caught: Number of suspect ``images`` with two lungs, share ``flagged`` as out of
            distribution, and share flagged when the limit is fitted ``without`` the image; empty
            where there are none.
    """

    thresholds: Mapping[str, Threshold]
    alarms: Mapping[str, Mapping[str, float]]
    mirrored: Mapping[str, float]
    caught: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Fit:
    """A fitted reference, and how it does.

    Attributes:
        reference: What belongs in the model file.
        protocols: Protocol -> its limits, and how they do.
    """

    reference: Reference
    protocols: Mapping[Protocol, ProtocolFit]


def fit_to_images(model: LoadedModel, images: Sequence[SourceImage]) -> Reference:
    """Fit the reference of a model to good X-rays of its training and validation data.

    Raises:
        CxrsegError: An image cannot be read, or the model finds both lungs on too few.
    """
    return fit(list(observe(model, images))).reference


def fit(
    observations: Sequence[Observation],
    suspects: Sequence[Observation] = (),
    poor: Sequence[str] = (),
) -> Fit:
    """Fit the reference of the model that was observed.

    Args:
        observations: Of good images, not of a test split.
        suspects: Of images that the limit ``out_of_distribution`` shall tell from good ones.
        poor: Sources that help to tell what is usual but choose no limit.

    Raises:
        CxrsegError: Too few masks hold two lungs, or no source is left to choose limits.
    """
    sources = sorted({each.source for each in observations})
    trusted = [source for source in sources if source not in poor]
    if not trusted:
        cause = f"no source is left of {', '.join(sources)}"
        raise CxrsegError("--poor", cause, "leave one out of it")
    statistics = fit_statistics(observations)
    if not statistics.shapes:
        cause = "the model has both lungs of no protocol"
        raise CxrsegError(SUBJECT, cause, "leave the reference out")
    judged = _by_other_folds(observations)
    protocols: dict[Protocol, ProtocolFit] = {}
    for protocol in statistics.shapes:
        scores: dict[str, list[Scores]] = {}
        for each, others in judged:
            if (found := score(each, protocol, others)) is not None:
                scores.setdefault(each.source, []).append(found)
        odd = [x for each in suspects if (x := score(each, protocol, statistics)) is not None]
        protocols[protocol] = _fit_protocol(dict(sorted(scores.items())), trusted, odd)
    limits = {
        protocol: {name: threshold.value for name, threshold in found.thresholds.items()}
        for protocol, found in protocols.items()
    }
    try:
        # As the runtime will read it, which refuses numbers out of all proportion.
        reference = Reference(statistics, limits, len(observations))
        return Fit(Reference.from_json(reference.to_json()), protocols)
    except ValueError as error:
        raise alike() from error


def _by_other_folds(observations: Sequence[Observation]) -> list[Judged]:
    folds = [zlib.crc32(each.patient.encode()) % FOLDS for each in observations]
    judged: list[Judged] = []
    for fold in sorted({*folds}):
        inside = [each for each, at in zip(observations, folds, strict=True) if at == fold]
        outside = [each for each, at in zip(observations, folds, strict=True) if at != fold]
        try:
            statistics = fit_statistics(outside)
        except CxrsegError as error:
            cause = f"too few images are left when a fold of the patients is set aside ({error})"
            raise CxrsegError(error.subject, cause, "give images of more patients") from error
        judged += [(each, statistics) for each in inside]
    return judged


def _fit_protocol(
    scores: Mapping[str, Sequence[Scores]], trusted: Sequence[str], suspects: Sequence[Scores]
) -> ProtocolFit:
    """Choose the limits of a protocol: scores by source, sources that count, suspect scores."""
    odd = [found["out_of_distribution"] for found in suspects]
    counting = {source: scores[source] for source in trusted if source in scores}
    if not counting:
        raise CxrsegError("--poor", "no other source has masks of two lungs", "name fewer")
    good = {
        name: {source: [each[name] for each in found] for source, found in counting.items()}
        for name in FITTED
    }
    chosen = {
        name: choose(name, good[name], odd if name == "out_of_distribution" else ())
        for name in FITTED
    }
    mirrored = {
        source: float(np.mean([-each["mirror"] > chosen["mirror"].value for each in found]))
        for source, found in scores.items()
    }
    alarms = {source: _alarms(found, chosen) for source, found in scores.items()}
    caught = _caught(odd, chosen["out_of_distribution"], good["out_of_distribution"])
    return ProtocolFit(chosen, alarms, mirrored, caught)


def _alarms(scores: Sequence[Scores], thresholds: Mapping[str, Threshold]) -> dict[str, float]:
    above = {
        name: [each[name] > threshold.value for each in scores]
        for name, threshold in thresholds.items()
    }
    shares = {name: float(np.mean(found)) for name, found in above.items()}
    either = np.any([*above.values()], axis=0)
    return {"images": len(scores), "any": float(np.mean(either)), **shares}


def _caught(
    scores: Sequence[float], threshold: Threshold, good: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    if not scores:
        return {}

    def without(index: int) -> bool:
        others = [x for at, x in enumerate(scores) if at != index]
        return scores[index] > choose("out_of_distribution", good, others).value

    return {
        "images": len(scores),
        "flagged": float(np.mean([x > threshold.value for x in scores])),
        "without": float(np.mean([without(index) for index in range(len(scores))])),
    }
