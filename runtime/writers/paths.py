"""What is written of one image, and under which names."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from cxrseg.runtime.files.own_files import LUNGS, LUNGS_DICOM, OVERLAY, OVERLAY_DICOM

Format = Literal["png", "json", "seg", "sc"]
"""What to write: the two PNG files, the report, the DICOM segmentation, the DICOM overlay."""

FORMATS: tuple[Format, ...] = get_args(Format)

DEFAULT_FORMATS: tuple[Format, ...] = ("png", "json")
"""What is written by default; works for every input."""

DICOM_FORMATS: tuple[Format, ...] = ("seg", "sc")
"""Formats that belong to a study, so that only a DICOM input can have them."""


def dicom_among(formats: Collection[Format]) -> tuple[Format, ...]:
    """Return those of the formats that only a DICOM input can have, in the order of `FORMATS`."""
    return tuple(name for name in DICOM_FORMATS if name in formats)


@dataclass(frozen=True)
class Outputs:
    """Paths of one image's outputs; iterating gives those of the chosen formats, mask first.

    Attributes:
        lungs: The label mask, ``x_lungs.png``.
        overlay: The contours on the X-ray, ``x_overlay.png``.
        report: Areas, measurements, probabilities and flags, ``x.json``.
        seg: The DICOM segmentation, ``x_lungs.dcm``.
        sc: The overlay as DICOM secondary capture, ``x_overlay.dcm``.
        formats: What is written.
    """

    lungs: Path
    overlay: Path
    report: Path
    seg: Path
    sc: Path
    formats: tuple[Format, ...] = DEFAULT_FORMATS

    @classmethod
    def of(
        cls,
        source: Path,
        folder: str | os.PathLike[str] | None = None,
        formats: Iterable[Format] = DEFAULT_FORMATS,
    ) -> Outputs:
        """Return the outputs of `source` in `folder`, or beside it."""
        home = source.parent if folder is None else Path(folder)
        # The last number of a DICOM identifier is no suffix: it distinguishes the images.
        stem = source.name if source.suffix[1:].isdigit() else source.stem
        return cls(
            lungs=home / f"{stem}{LUNGS}",
            overlay=home / f"{stem}{OVERLAY}",
            report=home / f"{stem}.json",
            seg=home / f"{stem}{LUNGS_DICOM}",
            sc=home / f"{stem}{OVERLAY_DICOM}",
            formats=tuple(formats),
        )

    def __iter__(self) -> Iterator[Path]:
        files: dict[Format, tuple[Path, ...]] = {
            "png": (self.lungs, self.overlay),
            "json": (self.report,),
            "seg": (self.seg,),
            "sc": (self.sc,),
        }
        return (path for name in FORMATS if name in self.formats for path in files[name])
