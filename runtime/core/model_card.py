"""The model card inside every model file: all that the runtime has to know of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from cxrseg.runtime.core.labels import structure_named
from cxrseg.runtime.core.preprocess import Preprocessing

METADATA_KEY = "cxrseg"
"""Key of the card in the ONNX file's ``metadata_props``."""

REFERENCE_KEY = "cxrseg.reference"
"""Key of the quality reference there, JSON as `cxrseg.runtime.quality.reference` reads it; a model
may have none."""

FORMAT_VERSION = 1
"""Version of the model file's contract; a runtime refuses a newer one."""

MAX_CHARACTERS = 100_000
"""Longest card that is read; one of vit_h has a tenth of that."""

INTENDED_USE = (
    "Research and quality assurance: outlines of the lungs on frontal chest X-rays. "
    "Not a diagnostic device."
)


@dataclass(frozen=True)
class ModelCard:
    """Contents of the JSON card.

    Attributes:
        name: Model name, e.g. ``cxrseg-vit_t``.
        version: Version of the package that exported it.
        labels: Channel names in order, known to `cxrseg.runtime.core.labels`.
        preprocessing: The input contract.
        precision: Layer name -> ``int8``, ``fp16``, ``fp32``, or ``constant`` where it was computed
            at export.
        checkpoint_sha256: Hash of the checkpoint file that was exported, lower-case hex.
        metrics: Figures measured in training, e.g. ``{"val_dice": 0.95}``.
        license: Terms of use of the weights and where the training data came from.
        intended_use: What it is for, and what it is not.
    """

    name: str
    version: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    precision: dict[str, str] = field(default_factory=dict)
    checkpoint_sha256: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    license: str = ""
    intended_use: str = INTENDED_USE

    def to_json(self) -> str:
        """Return the JSON text to store."""
        data: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "version": self.version,
            "labels": list(self.labels),
            "preprocessing": self.preprocessing.to_dict(),
            "precision": self.precision,
            "checkpoint_sha256": self.checkpoint_sha256,
            "metrics": self.metrics,
            "license": self.license,
            "intended_use": self.intended_use,
        }
        return json.dumps(data, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Read a card.

        Raises:
            ValueError: Not a card, of a newer format, or with labels that are not known.
        """
        try:
            if len(text) > MAX_CHARACTERS:
                raise ValueError(f"the model card has {len(text)} characters")
            data = json.loads(text, parse_constant=_refuse)
            version = int(data["format_version"])
            if version > FORMAT_VERSION:
                raise ValueError(f"model format {version} is newer than this program understands")
            labels = tuple(str(name) for name in data["labels"])
            for name in labels:
                structure_named(name)
            if not labels:
                raise ValueError("the card names no labels")
            return cls(
                name=str(data["name"]),
                version=str(data["version"]),
                labels=labels,
                preprocessing=Preprocessing.from_dict(data["preprocessing"]),
                precision={str(k): str(v) for k, v in data["precision"].items()},
                checkpoint_sha256=str(data["checkpoint_sha256"]),
                metrics={str(k): float(v) for k, v in data["metrics"].items()},
                license=str(data["license"]),
                intended_use=str(data["intended_use"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the model card is incomplete or malformed ({error})") from error


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} in a model card")
