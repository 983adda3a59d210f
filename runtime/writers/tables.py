"""What a table of many images holds: one row or line each, those that failed among them."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from cxrseg.runtime.core.labels import Side, label_named
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.files.own_files import MARK
from cxrseg.runtime.writers.report import Report

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

LINE_START = f'{{"program": "{MARK} '.encode("ascii")
"""How every line of JSON Lines begins."""

Status = Literal["ok", "flagged", "error"]


@dataclass(frozen=True)
class Record:
    """What became of one input.

    Attributes:
        source: The input as it was named.
        status: ``flagged`` where flags kept the files from being written.
        error: Why it failed.
        report: What its JSON report holds; empty where it failed.
        earlier: Whether an earlier run did it.
    """

    source: str
    status: Status
    error: str | None = None
    report: Report = field(default_factory=dict)
    earlier: bool = False


Row = dict[str, str | int | float | None]
"""Column -> cell; columns that are left out are empty."""

# What spreadsheets take for a formula, and the blanks that some of them skip before one.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def cells(record: Record) -> Row:
    """Return the cells of the CSV table's row.

    Raises:
        TypeError, LookupError: The report is not as cxrseg writes it.
    """
    known: Row = {"input": record.source, "status": record.status, "error": record.error}
    report = record.report
    if not report:
        return known
    sizes, model, spacing = report["measurements"], report["model"], report["spacing_mm"]
    known |= {
        "flags": " ".join(flag["code"] for flag in report["flags"]),
        "protocol": report["labels"][0]["protocol"],
        "image_height_px": report["size"]["height"],
        "image_width_px": report["size"]["width"],
        "spacing_source": sizes["spacing_source"],
        "thoracic_width_px": sizes["thoracic_width_px"],
        "thoracic_width_mm": _rounded(sizes["thoracic_width_mm"], 2),
        "area_ratio_right_left": _rounded(sizes["area_ratio"], 4),
        "model": f"{model['name']} {model['version']}",
        "model_sha256": model["sha256"],
        "cxrseg_version": report["program"].removeprefix(f"{MARK} "),
    }
    if spacing is not None:
        known["spacing_row_mm"] = _rounded(spacing["row"], 6)
        known["spacing_column_mm"] = _rounded(spacing["column"], 6)
    for label in report["labels"]:
        side, box = label_named(label["name"]).side, sizes["lungs"][label["name"]]
        known |= {
            f"{side}_area_px": label["area_px"],
            f"{side}_area_mm2": _rounded(label["area_mm2"], 1),
            f"{side}_height_px": box["height_px"],
            f"{side}_height_mm": _rounded(box["height_mm"], 2),
            f"{side}_width_px": box["width_px"],
            f"{side}_width_mm": _rounded(box["width_mm"], 2),
            f"{side}_probability": _rounded(label["probability"], 4),
        }
    return known


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def header() -> bytes:
    """Return the first row of the CSV table: RFC 4180 in UTF-8, after a byte order mark.

    By the mark spreadsheets recognize UTF-8.
    """
    return codecs.BOM_UTF8 + _csv(COLUMNS)


def row(record: Record) -> bytes:
    """Return the row of the CSV table.

    Text that a spreadsheet would run as a formula gets an apostrophe before it, and characters that
    are not printable become ``?``.

    Raises:
        TypeError, LookupError: The report is not as cxrseg writes it.
    """
    known = cells(record)
    return _csv(_guarded(known.get(column)) for column in COLUMNS)


def _guarded(value: str | int | float | None) -> str | int | float | None:
    if not isinstance(value, str):
        return value
    guarded = f"'{value}" if value.startswith(_FORMULA) else value
    return "".join(c if c.isprintable() else "?" for c in guarded)


def _csv(values: Iterable[str | int | float | None]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(values)
    return text.getvalue().encode("utf-8")


def line(record: Record) -> bytes:
    """Return the line of JSON Lines: what the report holds, with source, status and error."""
    # Like the report it begins with the program, by which our files are known.
    data = {
        "program": f"{MARK} {package_version()}",
        "source": record.source,
        "status": record.status,
        "error": record.error,
        **record.report,
    }
    return (json.dumps(data, allow_nan=False) + "\n").encode("ascii")
