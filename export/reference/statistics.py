"""Fitting reference statistics: what is usual on images that a model segments well."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cxrseg.export.reference.observe import Observation
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import Protocol
from cxrseg.runtime.quality.features import asymmetry
from cxrseg.runtime.quality.gaussian import Gaussian
from cxrseg.runtime.quality.reference import Protocols, ReferenceStatistics

RIDGE = 0.02
"""Added to the variances of thumbnail cells, in squared standard deviations of the image."""

MIRROR_RIDGE = 0.01
"""Weight of the squares in the regression that tells sides, of the squared asymmetries."""

KEPT = 0.98
"""Share of the shapes that the fit keeps: the model fails on some training images, too."""

FEWEST = 40
"""Images that statistics need."""

SUBJECT = "quality reference"
"""How messages call what cannot be fitted."""

_ROUNDS = 6
_LEAST_UNCERTAINTY = 0.01  # less than a cell of the grid


def fit_statistics(observations: Sequence[Observation]) -> ReferenceStatistics:
    """Fit what is usual. Every source weighs the same.

    Raises:
        CxrsegError: Too few masks hold two lungs, or they are all alike.
    """
    seen = [(each.framed.ravel(), each.source) for each in observations if each.framed is not None]
    if len(seen) < FEWEST:
        raise _too_few(f"{len(seen)} images show anything")
    thumbnails = np.stack([cells for cells, _ in seen])
    shapes: dict[Protocol, Gaussian] = {}
    uncertainty: dict[Protocol, float] = {}
    for protocol in observations[0].outlines:
        shapes[protocol], uncertainty[protocol] = _fit_outlines(observations, protocol)
    known = tuple(shapes)
    combined = [(x,) for x in known] + ([known] if len(known) > 1 else [])
    return ReferenceStatistics(
        fit_gaussian(thumbnails, balance([source for _, source in seen]), RIDGE),
        shapes,
        uncertainty,
        {protocols: _fit_mirror(observations, protocols) for protocols in combined},
    )


def _fit_outlines(
    observations: Sequence[Observation], protocol: Protocol
) -> tuple[Gaussian, float]:
    found = [
        (outlines.shape, outlines.uncertainty, each.source)
        for each in observations
        for outlines in [each.outlines[protocol]]
        if outlines.shape is not None
    ]
    if len(found) < FEWEST:
        raise _too_few(f"{len(found)} masks of protocol {protocol} hold two lungs")
    vectors = np.stack([lungs for lungs, _, _ in found])
    weights = balance([source for _, _, source in found])
    band = float(np.median([band for _, band, _ in found]))
    return fit_gaussian(vectors, weights, kept=KEPT), max(band, _LEAST_UNCERTAINTY)


def _fit_mirror(observations: Sequence[Observation], protocols: Protocols) -> NDArray[np.float64]:
    """Return weights w so that w @ asymmetry is near 1, and near -1 for mirror images.

    Ridge regression. A mirror image has the asymmetry with the other sign, so that there is no
    offset and each image stands for both.
    """
    rows, sources = [], []
    for each in observations:
        shapes = each.shapes(protocols)
        if each.framed is not None and shapes is not None:
            rows.append(asymmetry(each.framed, [*shapes.values()]))
            sources.append(each.source)
    if len(rows) < FEWEST:
        raise _too_few(f"{len(rows)} images hold two lungs under {' and '.join(protocols)}")
    x, weights = np.stack(rows), balance(sources)
    weights = weights / weights.sum()
    spread = np.sqrt(weights @ x**2)
    z = x / spread
    squares = (z * weights[:, None]).T @ z + MIRROR_RIDGE * np.eye(len(spread))
    return np.asarray(np.linalg.solve(squares, weights @ z) / spread)


def fit_gaussian(
    vectors: NDArray[np.float64], weights: NDArray[np.float64], ridge: float = 0, kept: float = 1
) -> Gaussian:
    """Fit a normal distribution, leaving out what lies farthest.

    Args:
        vectors: float64 [m, n].
        weights: float64 [m], above 0.
        ridge: Added to every variance.
        kept: Share of the vectors that count, in (0, 1].

    Raises:
        CxrsegError: The vectors vary in fewer than n directions.
    """
    chosen = np.ones(len(vectors), np.bool_)
    for _ in range(_ROUNDS if kept < 1 else 1):
        mean = np.average(vectors[chosen], axis=0, weights=weights[chosen])
        covariance = np.cov(vectors[chosen], rowvar=False, aweights=weights[chosen])
        covariance += ridge * np.eye(len(mean))
        try:
            gaussian = Gaussian(mean, np.linalg.cholesky(np.linalg.inv(covariance)).T)
        except np.linalg.LinAlgError as error:
            raise alike() from error
        distances = gaussian.distance(vectors)
        chosen = distances <= np.quantile(distances, kept)
    return gaussian


def balance(groups: Sequence[str]) -> NDArray[np.float64]:
    """Return weights that give every group the same sum: float64 [m]."""
    _, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return np.asarray(1 / counts[index], np.float64)


def alike() -> CxrsegError:
    """Return the error of images whose outlines do not vary."""
    cause = "the model's outlines are alike on all images"
    return CxrsegError(SUBJECT, cause, "train longer, or give other X-rays")


def _too_few(cause: str) -> CxrsegError:
    return CxrsegError(SUBJECT, f"{cause}, too few to fit", "give more images")
