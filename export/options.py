"""What is asked of an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cxrseg.export.graph.compile import Precision, Profile


@dataclass(frozen=True)
class ExportOptions:
    """How a checkpoint is exported.

    Attributes:
        profile: ``cpu`` stores layers that are not integer in FP16; ``gpu`` also computes them so.
        precision: ``int8``, or ``fp32`` for comparison.
        verify_images: Folder of X-rays to verify on; None for synthetic ones.
        calibration_images: X-rays to set the activation ranges from, where training did not: a
            folder of images, or training data as a CSV or a folder, of which the split ``train`` is
            taken; None for `quality_data`, or else for those to verify on.
        keep_fp16: Patterns, as in the shell, of layers to take out of INT8.
        weight_bits: 7 or 8; None for what the model was trained with, or else 7.
        license_note: Terms of the weights, for the model card.
        quality_data: CSV or folder of good X-rays that the reference of the quality flags is fitted
            to; None for a model without one.
    """

    profile: Profile = "cpu"
    precision: Precision = "int8"
    verify_images: Path | None = None
    calibration_images: Path | None = None
    keep_fp16: tuple[str, ...] = ()
    weight_bits: int | None = None
    license_note: str = ""
    quality_data: Path | None = None


DEFAULTS = ExportOptions()
