"""Tables of many images: one row or line each, those that failed among them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import Side, label_named
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.files.atomic import atomic_write
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


Add = Callable[[Record], None]

Row = dict[str, str | int | float | None]
"""Column -> cell; columns that are left out are empty."""

# What spreadsheets take for a formula, and the blanks that some of them skip before one.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def row(record: Record) -> Row:
    """Return the row of the CSV table.

    Raises:
        TypeError, LookupError: The report is not as cxrseg writes it.
    """
    cells: Row = {"input": record.source, "status": record.status, "error": record.error}
    report = record.report
    if not report:
        return cells
    sizes, model, spacing = report["measurements"], report["model"], report["spacing_mm"]
    cells |= {
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
        cells["spacing_row_mm"] = _rounded(spacing["row"], 6)
        cells["spacing_column_mm"] = _rounded(spacing["column"], 6)
    for label in report["labels"]:
        side, box = label_named(label["name"]).side, sizes["lungs"][label["name"]]
        cells |= {
            f"{side}_area_px": label["area_px"],
            f"{side}_area_mm2": _rounded(label["area_mm2"], 1),
            f"{side}_height_px": box["height_px"],
            f"{side}_height_mm": _rounded(box["height_mm"], 2),
            f"{side}_width_px": box["width_px"],
            f"{side}_width_mm": _rounded(box["width_mm"], 2),
            f"{side}_probability": _rounded(label["probability"], 4),
        }
    return cells


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def line(record: Record) -> str:
    """Return the line of JSON Lines: what the report holds, with source, status and error."""
    # Like the report it begins with the program, by which our files are known.
    data = {
        "program": f"{MARK} {package_version()}",
        "source": record.source,
        "status": record.status,
        "error": record.error,
        **record.report,
    }
    return json.dumps(data, allow_nan=False) + "\n"


@contextmanager
def summary(
    table: Path | None = None, lines: Path | None = None, append: bool = False
) -> Iterator[Add]:
    """Give a function that takes the records of all inputs, one after another.

    Args:
        table: The CSV file to write; None = none.
        lines: The JSON Lines file to write; None = none.
        append: As `json_lines` takes it.

    Raises:
        CxrsegError: A file exists and is no earlier one of its kind, or it cannot be written.
    """
    with ExitStack() as stack:
        adds: list[Add] = []
        if table is not None:
            adds.append(stack.enter_context(csv_table(table)))
        if lines is not None:
            adds.append(stack.enter_context(json_lines(lines, append)))

        def add(record: Record) -> None:
            for add_to_file in adds:
                add_to_file(record)

        yield add


@contextmanager
def csv_table(path: Path) -> Iterator[Add]:
    """Give a function that adds rows to a table, written when the block ends, and when it fails.

    The rows of an interrupted run are complete: Ctrl-C costs those of the images in work, and of
    images that were done while one before them was in work. The file is CSV (RFC 4180) in UTF-8
    with a byte order mark, by which spreadsheets recognize it. Text that a spreadsheet would run as
    a formula gets an apostrophe before it, and characters that are not printable become ``?``.

    Raises:
        CxrsegError: The file exists and is no earlier table of cxrseg, or it cannot be written.
    """
    data = io.BytesIO()
    text = io.TextIOWrapper(data, "utf-8-sig", errors="replace", newline="", write_through=True)
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    _check(path, "--csv", "a table of this version of cxrseg", data.getvalue())

    def add(record: Record) -> None:
        cells = row(record)
        writer.writerow([_cell(cells.get(column)) for column in COLUMNS])

    try:
        yield add
    finally:
        with atomic_write(path) as temporary:
            temporary.write_bytes(data.getbuffer())


def _cell(value: str | int | float | None) -> str | int | float | None:
    if not isinstance(value, str):
        return value
    guarded = f"'{value}" if value.startswith(_FORMULA) else value
    return "".join(c if c.isprintable() else "?" for c in guarded)


@contextmanager
def json_lines(path: Path, append: bool = False) -> Iterator[Add]:
    """Give a function that adds lines to a file, each written at once.

    Args:
        path: The file, ASCII.
        append: Keep the lines that are there. What an earlier run did gets a line only if it has
            none of a success; a line that a kill cut off is removed.

    Raises:
        CxrsegError: The file exists and is no earlier one of cxrseg, or it cannot be written.
    """
    _check(path, "--jsonl", "of cxrseg's JSON Lines", f'{{"program": "{MARK} '.encode())
    with _file_errors(path, "--jsonl"):
        known = _known(path) if append else set()
        # Unbuffered: a line goes to the system whole, and at once.
        file = path.open("ab" if append else "wb", buffering=0)
    with file:

        def add(record: Record) -> None:
            if record.earlier and record.source in known:
                return
            rest = line(record).encode("ascii")
            with _file_errors(path, "--jsonl"):
                while rest:
                    rest = rest[file.write(rest) :]

        yield add


def _known(path: Path) -> set[str]:
    """Return the sources that have a line of success, and cut off an incomplete last line."""
    known: set[str] = set()
    if not path.exists():
        return known
    whole = 0
    with path.open("r+b") as file:
        for text in file:
            if not text.endswith(b"\n"):
                file.truncate(whole)
                break
            whole += len(text)
            # Somebody may have edited it.
            with suppress(ValueError, TypeError, LookupError, RecursionError):
                data = json.loads(text)
                if data["status"] != "error":
                    known.add(str(data["source"]))
    return known


def _check(path: Path, option: str, kind: str, start: bytes) -> None:
    """Refuse, before anything is computed, a path that cannot become the file."""
    remedy = f"choose another name with {option}"
    with _file_errors(path, option, "read"):
        if path.is_dir():
            raise CxrsegError(path, "is a folder, not a file", remedy)
        if not path.parent.is_dir():
            raise CxrsegError(path, "its folder does not exist", remedy)
        if not path.exists():
            return
        with path.open("rb") as file:
            head = file.read(len(start))
    # What a kill cut off at its very beginning is ours, too.
    if not start.startswith(head):
        cause = f"exists and is not {kind}, so it is kept"
        raise CxrsegError(path, cause, f"rename it, or {remedy}")


@contextmanager
def _file_errors(path: Path, option: str, verb: str = "written") -> Iterator[None]:
    """Turn the system's errors into ours."""
    try:
        yield
    except OSError as error:
        cause = f"cannot be {verb} ({error.strerror or error})"
        raise CxrsegError(path, cause, f"choose another name with {option}") from error
