"""What segmenting one radiograph gives."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.core.flags import Flag
from cxrseg.runtime.core.labels import Label
from cxrseg.runtime.core.radiograph import Spacing


@dataclass(frozen=True)
class Segmentation:
    """The lungs of one radiograph.

    Attributes:
        mask: uint8 [H, W] at the native size: 0 = background, otherwise a label's `value`.
        labels: The labels that the mask can hold, right before left.
        probability: Label name -> mean probability in [0, 1] inside that lung, None if absent.
        area_px: Label name -> area in pixels.
        area_mm2: Label name -> area in mm2, or None where the pixel spacing is not known.
        flags: Reasons to look at the result; empty if there are none.
        model: Name of the model.
        model_version: Version of the model.
        model_sha256: SHA-256 of the model file, lower-case hex.
        provider: ONNX Runtime's execution provider that ran it.
        spacing: Pixel spacing, or None.
        timings: Step -> duration in ms.
        provenance: Facts of the reading, from the radiograph.
        not_assessed: Codes of the flags that could not be judged, because the model has no quality
            reference, none of this protocol, or outlines one lung alone; empty if all were.
    """

    mask: NDArray[np.uint8]
    labels: tuple[Label, ...]
    probability: dict[str, float | None]
    area_px: dict[str, int]
    area_mm2: dict[str, float] | None
    flags: tuple[Flag, ...]
    model: str
    model_version: str
    model_sha256: str
    provider: str
    spacing: Spacing | None = None
    timings: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, str | int | float] = field(default_factory=dict)
    not_assessed: tuple[str, ...] = ()

    @property
    def fraction(self) -> dict[str, float]:
        """Label name -> share of the image's area, in [0, 1]."""
        return {name: area / self.mask.size for name, area in self.area_px.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the mask as plain data for JSON."""
        height, width = self.mask.shape
        return {
            "size": {"height": height, "width": width},
            "spacing_mm": None if self.spacing is None else asdict(self.spacing),
            "provenance": dict(self.provenance),
            "labels": [
                {
                    "name": label.name,
                    "value": label.value,
                    "title": label.title,
                    "protocol": label.protocol,
                    "color": list(label.color),
                    "probability": self.probability[label.name],
                    "area_px": self.area_px[label.name],
                    "area_mm2": None if self.area_mm2 is None else self.area_mm2[label.name],
                    "fraction": self.fraction[label.name],
                }
                for label in self.labels
            ],
            "flags": [asdict(flag) for flag in self.flags],
            "not_assessed": list(self.not_assessed),
            "model": {
                "name": self.model,
                "version": self.model_version,
                "sha256": self.model_sha256,
            },
            "provider": self.provider,
            "timings_ms": {step: round(ms, 3) for step, ms in self.timings.items()},
        }
