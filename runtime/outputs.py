"""Names of the files that one image gives, and how to recognize them later."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = "cxrseg"
"""Stands near the beginning of every file that cxrseg writes."""

LUNGS = "_lungs.png"
"""End of the label mask's name."""

OVERLAY = "_overlay.png"
"""End of the overlay's name."""

_HEAD = 1024


@dataclass(frozen=True)
class Outputs:
    """Paths of one image's outputs.

    Attributes:
        lungs: The label mask, ``x_lungs.png``.
        overlay: The contours on the X-ray, ``x_overlay.png``.
        report: Areas, probabilities and flags, ``x.json``.
    """

    lungs: Path
    overlay: Path
    report: Path

    @classmethod
    def of(cls, source: Path, folder: str | os.PathLike[str] | None = None) -> Outputs:
        """Return the outputs of `source` in `folder`, or beside it."""
        home = source.parent if folder is None else Path(folder)
        # The last number of a DICOM identifier is no suffix: it tells the images apart.
        stem = source.name if source.suffix[1:].isdigit() else source.stem
        return cls(home / f"{stem}{LUNGS}", home / f"{stem}{OVERLAY}", home / f"{stem}.json")

    def __iter__(self) -> Iterator[Path]:
        return iter((self.lungs, self.overlay, self.report))


def is_ours(path: Path) -> bool:
    """Tell whether an existing file was written by cxrseg.

    A file that cannot be read is taken for somebody else's.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return f"Software\0{MARK}".encode() in head or f'"program": "{MARK} '.encode() in head
