"""What a model's outlines are compared with: data in the model file, fitted to that model.

``cxrseg-export --quality-data`` and ``cxrseg-bench quality-fit`` fit it and write it, as JSON under
`cxrseg.runtime.core.model_card.REFERENCE_KEY`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import PROTOCOLS, Protocol
from cxrseg.runtime.quality.features import CELLS, PARTS, asymmetry
from cxrseg.runtime.quality.gaussian import Gaussian
from cxrseg.runtime.quality.rules import FITTED
from cxrseg.runtime.quality.validation import SMALLEST, fields_of, numbers, positive

FORMAT_VERSION = 1
"""Version of the JSON; any other is refused."""

MAX_CHARACTERS = 100_000
"""Longest JSON that is read."""

BROADEST = 4.0
"""Uncertain band, as a multiple of the usual one, from which more does not raise the
out-of-distribution score."""

_SHAPE = 2 * len(PARTS)

Protocols = tuple[Protocol, ...]


@dataclass(frozen=True)
class Deviation:
    """How unlike the reference's chest X-rays an image and its outlines are.

    Attributes:
        shape: Distance of the outlines, in standard deviations.
        out_of_distribution: Distance of thumbnail and outlines together (the root of both squares),
            times the root of the uncertain band where that is broader than usual, up to `BROADEST`:
            on what is no frontal chest the model is uncertain, too.
    """

    shape: float
    out_of_distribution: float


@dataclass(frozen=True)
class ReferenceStatistics:
    """What is usual on frontal chest X-rays that a model segments well.

    Attributes:
        thumbnail: Of thumbnails, `CELLS` ** 2 variables.
        shapes: Protocol -> of the shape of both lungs, 12 variables.
        uncertainty: Protocol -> median of `features.uncertainty`.
        mirror: Protocols in the order of `PROTOCOLS` -> weights of their `features.asymmetry`,
            float64 [18 + 6 n]; for each protocol, and for all together.
    """

    thumbnail: Gaussian
    shapes: Mapping[Protocol, Gaussian]
    uncertainty: Mapping[Protocol, float]
    mirror: Mapping[Protocols, NDArray[np.float64]]

    def deviation(
        self,
        protocol: Protocol,
        cells: NDArray[np.float64],
        lungs: NDArray[np.float64],
        band: float,
    ) -> Deviation:
        """Compare an image and its outlines with what is usual.

        Args:
            protocol: Of the outlines.
            cells: float64 [CELLS, CELLS] of `features.thumbnail`.
            lungs: float64 [12] of `features.shape`.
            band: `features.uncertainty` as a multiple of the usual one.
        """
        distance = float(self.shapes[protocol].distance(lungs))
        together = np.hypot(self.thumbnail.distance(cells.ravel()), distance)
        return Deviation(distance, float(together * np.clip(band, 1, BROADEST) ** 0.5))

    def mirror_score(
        self, cells: NDArray[np.float64], shapes: Mapping[Protocol, NDArray[np.float64]]
    ) -> float:
        """Return the score of a mirrored image: about -1 as usual, 1 mirrored.

        Args:
            cells: float64 [CELLS, CELLS] of `features.thumbnail`.
            shapes: Protocol -> float64 [12] of `features.shape`, under one protocol or all.
        """
        protocols = tuple(protocol for protocol in PROTOCOLS if protocol in shapes)
        weights = self.mirror[protocols]
        return -float(weights @ asymmetry(cells, [shapes[protocol] for protocol in protocols]))


@dataclass(frozen=True)
class Reference:
    """The quality reference of a model.

    Attributes:
        statistics: What is usual.
        limits: Protocol -> name in `rules.FITTED` -> limit.
        images: Number of images that it was fitted to.
    """

    statistics: ReferenceStatistics
    limits: Mapping[Protocol, Mapping[str, float]]
    images: int

    @property
    def protocols(self) -> Protocols:
        """The protocols whose outlines it can judge."""
        return tuple(protocol for protocol in PROTOCOLS if protocol in self.limits)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; numbers have four digits."""
        statistics = self.statistics
        return {
            "format_version": FORMAT_VERSION,
            "images": self.images,
            "limits": {
                protocol: {name: _short(limit) for name, limit in limits.items()}
                for protocol, limits in self.limits.items()
            },
            "thumbnail": _from_gaussian(statistics.thumbnail),
            "shapes": {x: _from_gaussian(shape) for x, shape in statistics.shapes.items()},
            "uncertainty": {x: _short(usual) for x, usual in statistics.uncertainty.items()},
            "mirror": {" ".join(x): _all_short(w) for x, w in statistics.mirror.items()},
        }

    @classmethod
    def from_dict(cls, data: object) -> Reference:
        """Rebuild from `to_dict`.

        Raises:
            ValueError: Another version, or anything else than `to_dict` gives: a key, a shape, a
                type, a number that is not finite or has no sense.
        """
        version = data.get("format_version") if isinstance(data, dict) else None
        if type(version) is int and version != FORMAT_VERSION:
            raise ValueError(f"format {version} is not one that this program understands")
        keys = ("images", "limits", "thumbnail", "shapes", "uncertainty", "mirror")
        fields = fields_of(data, ("format_version", *keys), "the reference")
        if type(version) is not int or type(fields["images"]) is not int or fields["images"] < 1:
            raise ValueError("format_version and images must be numbers of 1 or more")
        limits = fields["limits"]
        protocols = [x for x in PROTOCOLS if isinstance(limits, dict) and x in limits]
        together = [(x,) for x in protocols] + ([tuple(protocols)] if len(protocols) > 1 else [])
        fields_of(limits, protocols or PROTOCOLS, "limits")
        shapes = fields_of(fields["shapes"], protocols, "shapes")
        usual = fields_of(fields["uncertainty"], protocols, "uncertainty")
        mirror = fields_of(fields["mirror"], [" ".join(x) for x in together], "mirror")
        return cls(
            ReferenceStatistics(
                _to_gaussian(fields["thumbnail"], CELLS**2, "thumbnail"),
                {x: _to_gaussian(shapes[x], _SHAPE, f"shapes.{x}") for x in protocols},
                {x: positive(usual[x], f"uncertainty.{x}") for x in protocols},
                {x: _weights(mirror[" ".join(x)], len(x)) for x in together},
            ),
            {x: _limits(limits[x], f"limits.{x}") for x in protocols},
            fields["images"],
        )

    def to_json(self) -> str:
        """Return the JSON text to store."""
        return json.dumps(self.to_dict(), separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Reference:
        """Read `to_json`.

        Raises:
            ValueError: As `from_dict`, or no JSON, or too long.
        """
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"it is longer than {MAX_CHARACTERS} characters")
        try:
            return cls.from_dict(json.loads(text))
        # A hostile text's nesting.
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error


def read_reference(text: str | None, path: Path) -> Reference | None:
    """Return the reference of a model file; None where it has none.

    Args:
        text: What the file holds under `REFERENCE_KEY`.
        path: The file.

    Raises:
        CxrsegError: It is damaged, or of a version that this program does not know.
    """
    try:
        return None if text is None else Reference.from_json(text)
    except ValueError as error:
        raise CxrsegError(
            path,
            f"has a quality reference that cannot be used ({error})",
            "update cxrseg, or fit it again with cxrseg-bench quality-fit",
        ) from error


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _all_short(values: NDArray[np.float64]) -> list[float]:
    return [_short(value) for value in values]


def _from_gaussian(gaussian: Gaussian) -> dict[str, list[float]]:
    triangle = gaussian.root[np.triu_indices(gaussian.mean.size)]
    return {"mean": _all_short(gaussian.mean), "root": _all_short(triangle)}


def _to_gaussian(value: object, size: int, name: str) -> Gaussian:
    fields = fields_of(value, ("mean", "root"), name)
    root = np.zeros((size, size))
    root[np.triu_indices(size)] = numbers(fields["root"], size * (size + 1) // 2, f"{name}.root")
    if root.diagonal().min() < SMALLEST:
        raise ValueError(f"{name}.root is not that of a distribution")
    return Gaussian(numbers(fields["mean"], size, f"{name}.mean"), root)


def _weights(value: object, protocols: int) -> NDArray[np.float64]:
    return numbers(value, CELLS * (CELLS // 2) + len(PARTS) * protocols, "mirror")


def _limits(value: object, name: str) -> dict[str, float]:
    fields = fields_of(value, FITTED, name)
    return {rule: positive(fields[rule], f"{name}.{rule}") for rule in FITTED}
