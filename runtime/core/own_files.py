"""Names of the files that one image gives, and how to recognize them later."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

MARK = "cxrseg"
"""Stands near the beginning of every file that cxrseg writes; the Manufacturer of its DICOM."""

LUNGS = "_lungs.png"
"""End of the label mask's name."""

OVERLAY = "_overlay.png"
"""End of the overlay's name."""

LUNGS_DICOM = "_lungs.dcm"
"""End of the DICOM segmentation's name."""

OVERLAY_DICOM = "_overlay.dcm"
"""End of the name of the overlay as DICOM secondary capture."""

IMAGE_ENDS = (LUNGS, OVERLAY, LUNGS_DICOM, OVERLAY_DICOM)
"""Ends of the names of cxrseg's own images, which no folder gives as input."""

Format = Literal["png", "json", "seg", "sc"]
"""What to write: the two PNG files, the report, the DICOM segmentation, the DICOM overlay."""

FORMATS: tuple[Format, ...] = get_args(Format)

DEFAULT_FORMATS: tuple[Format, ...] = ("png", "json")
"""What is written unless told otherwise; works for every input."""

DICOM_FORMATS: tuple[Format, ...] = ("seg", "sc")
"""Formats that belong to a study, so that only a DICOM input can have them."""

Report = dict[str, Any]
"""What ``x.json`` holds: plain data for JSON."""

_HEAD = 1024


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
        # The last number of a DICOM identifier is no suffix: it tells the images apart.
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


def is_ours(path: Path) -> bool:
    """Tell whether an existing file was written by cxrseg.

    PNG and JSON name it near their beginning, DICOM as its Manufacturer. A file that cannot be
    read is taken for somebody else's.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    if head[128:132] == b"DICM":
        return _is_our_dicom(path)
    return f"Software\0{MARK}".encode() in head or f'"program": "{MARK} '.encode() in head


def _is_our_dicom(path: Path) -> bool:
    import pydicom

    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Manufacturer"])
        return bool(dataset.get("Manufacturer") == MARK)
    # On damaged files pydicom raises nearly any type.
    except Exception:
        return False
