"""The table of many images: one CSV row each, those that failed among them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cxrseg.runtime.errors import CxrsegError
from cxrseg.runtime.files import atomic_write
from cxrseg.runtime.labels import Side
from cxrseg.runtime.measurements import Measurements
from cxrseg.runtime.segmentation import Segmentation
from cxrseg.runtime.version import package_version

_SIDES: tuple[Side, ...] = ("right", "left")
_OF_A_LUNG = ("area_px", "area_mm2", "height_px", "height_mm", "width_px", "width_mm")

COLUMNS: tuple[str, ...] = (
    *("input", "status", "error", "flags", "protocol"),
    *("image_height_px", "image_width_px"),
    *("spacing_row_mm", "spacing_column_mm", "spacing_source"),
    *(f"{side}_{name}" for side in _SIDES for name in (*_OF_A_LUNG, "probability")),
    *("thoracic_width_px", "thoracic_width_mm", "area_ratio_right_left"),
    *("model", "model_sha256", "cxrseg_version"),
)
"""Columns of the table, in order. `status` is ``ok``, ``flagged`` where flags kept the files from
being written, or ``error``; a cell is empty where nothing is known. Heights and widths are those of
`Measurements`, upright."""

Row = dict[str, str | int | float | None]
"""Column -> cell; columns that are left out are empty."""

# What spreadsheets take for a formula, and the blanks that some of them skip before one.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def failed_row(source: str, error: CxrsegError) -> Row:
    """Return the row of an input that gave no result."""
    return {"input": source, "status": "error", "error": str(error)}


def result_row(
    source: str, result: Segmentation, measured: Measurements, withheld: bool = False
) -> Row:
    """Return the row of a segmented image."""
    height, width = result.mask.shape
    row: Row = {
        "input": source,
        "status": "flagged" if withheld else "ok",
        "flags": " ".join(flag.code for flag in result.flags),
        "protocol": result.labels[0].protocol,
        "image_height_px": height,
        "image_width_px": width,
        "spacing_source": measured.spacing_source,
        "thoracic_width_px": measured.thoracic_width_px,
        "thoracic_width_mm": _rounded(measured.thoracic_width_mm, 2),
        "area_ratio_right_left": _rounded(measured.area_ratio, 4),
        "model": f"{result.model} {result.model_version}",
        "model_sha256": result.model_sha256,
        "cxrseg_version": package_version(),
    }
    if result.spacing is not None:
        row["spacing_row_mm"] = _rounded(result.spacing.row, 6)
        row["spacing_column_mm"] = _rounded(result.spacing.column, 6)
    for label in result.labels:
        box = measured.lungs[label.name]
        area_mm2 = None if result.area_mm2 is None else result.area_mm2[label.name]
        row |= {
            f"{label.side}_area_px": result.area_px[label.name],
            f"{label.side}_area_mm2": _rounded(area_mm2, 1),
            f"{label.side}_height_px": box.height_px,
            f"{label.side}_height_mm": _rounded(box.height_mm, 2),
            f"{label.side}_width_px": box.width_px,
            f"{label.side}_width_mm": _rounded(box.width_mm, 2),
            f"{label.side}_probability": _rounded(result.probability[label.name], 4),
        }
    return row


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def to_csv(rows: Sequence[Row]) -> str:
    """Return the table as CSV text with a header, lines ended by CR LF (RFC 4180).

    Text that a spreadsheet would run as a formula gets an apostrophe before it, and characters
    that are not printable become ``?``.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in COLUMNS])
    return text.getvalue()


def _cell(value: str | int | float | None) -> str | int | float | None:
    if not isinstance(value, str):
        return value
    guarded = f"'{value}" if value.startswith(_FORMULA) else value
    return "".join(c if c.isprintable() else "?" for c in guarded)


@contextmanager
def summary(path: Path | None) -> Iterator[list[Row] | None]:
    """Give a list to add rows to, written when the block ends, and also when it fails.

    The rows of an interrupted run are complete: Ctrl-C costs the image in work alone. The file is
    UTF-8 with a byte order mark, which spreadsheets need to tell it.

    Args:
        path: The CSV file; None = no table, and None is given.

    Raises:
        CxrsegError: The file exists and is no earlier table of cxrseg, or it cannot be written.
    """
    if path is None:
        yield None
        return
    _check(path)
    rows: list[Row] = []
    try:
        yield rows
    finally:
        with atomic_write(path) as temporary:
            data = to_csv(rows).encode("utf-8-sig", errors="replace")
            temporary.write_bytes(data)


def _check(path: Path) -> None:
    """Refuse, before anything is computed, a path that cannot become the table."""
    remedy = "choose another name with --csv"
    header = to_csv([]).encode("utf-8-sig")
    try:
        if path.is_dir():
            raise CxrsegError(path, "is a folder, not a file", remedy)
        if not path.parent.is_dir():
            raise CxrsegError(path, "the folder of the table does not exist", remedy)
        if not path.exists():
            return
        with path.open("rb") as file:
            ours = file.read(len(header)) == header
    except OSError as error:
        raise CxrsegError(path, f"cannot be read ({error.strerror})", remedy) from error
    if not ours:
        cause = "exists and is not a table of this version of cxrseg, so it is kept"
        raise CxrsegError(path, cause, f"rename it, or {remedy}")
