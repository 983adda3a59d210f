"""The images that a benchmark runs on: rows of a CSV with images and reference masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from cxrseg.benchmarks.harness.samples import Sample
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import Protocol
from cxrseg.trainer.data.samples import read_table

Case = Sample

Item = TypeVar("Item")

REQUIRED = ("image", "mask", "split")
"""Columns that the CSV must have."""


def read_cases(
    data: Path,
    split: str,
    where: Sequence[tuple[str, str]] = (),
    protocol: Protocol = "fields",
    limit: int | None = None,
) -> list[Case]:
    """Read the rows to evaluate and check that their files are there.

    Args:
        data: CSV with the columns ``image``, ``mask``, ``split`` and any others; paths are
            relative to it.
        split: Value of the column ``split``. No other split is ever read, so that ``external``
            is touched only when it is named.
        where: Column and value that a row must have; a column named twice accepts either value.
        protocol: Rows with another value in a column ``protocol``, if there is one, are left
            out: the two ways to outline a lung are not comparable.
        limit: Number of images to take, spread evenly over the rows; None = all.

    Returns:
        The cases, at least one, in the order of the CSV.

    Raises:
        CxrsegError: The CSV is missing or malformed, lacks a column, no row matches, or a file
            that it names is missing.
    """
    columns, rows = read_table(data)
    for column in (*REQUIRED, *(column for column, _ in where)):
        if column not in columns:
            raise CxrsegError(data, f"has no column {column!r}", f"it has {', '.join(columns)}")
    wanted: dict[str, set[str]] = {"split": {split}}
    if "protocol" in columns:
        wanted["protocol"] = {protocol}
    asked: dict[str, set[str]] = {}
    for column, value in where:
        asked.setdefault(column, set()).add(value)
    chosen = [row for row in rows if _matches(row, wanted) and _matches(row, asked)]
    if not chosen:
        raise CxrsegError(data, *_no_row(rows, {**wanted, **asked}, split))
    return [_case(row, data, "patient" in columns) for row in spread(chosen, limit)]


def grouping(cases: Sequence[Case], by: str | None, data: Path) -> str | None:
    """Return the column whose values become groups: `by`, else ``source`` if it is there.

    Raises:
        CxrsegError: The CSV has no column `by`.
    """
    if by is None:
        return "source" if "source" in cases[0].row else None
    if by not in cases[0].row:
        raise CxrsegError(data, f"has no column {by!r}", "name another with --by")
    return by


def spread(items: Sequence[Item], limit: int | None) -> list[Item]:
    """Return at most `limit` items, spread evenly over all, in order; None = all."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]


def _matches(row: Mapping[str, str], terms: Mapping[str, set[str]]) -> bool:
    # As the trainer, which takes a row without a protocol for one of fields.
    row = {**row, "protocol": row.get("protocol") or "fields"}
    return all(row[column] in values for column, values in terms.items())


def _no_row(
    rows: Sequence[Mapping[str, str]], wanted: Mapping[str, set[str]], split: str
) -> tuple[str, str]:
    """Return cause and remedy for a selection that is empty."""
    terms = [f"{column} = {' or '.join(sorted(values))}" for column, values in wanted.items()]
    splits = sorted({row["split"] for row in rows})
    if split not in splits:
        remedy = f"--split takes {', '.join(splits)}" if splits else "the file holds no rows"
    else:
        remedy = "loosen --where, --split or --protocol"
    return f"no row has {' and '.join(terms)}", remedy


def _case(row: Mapping[str, str], data: Path, has_patients: bool) -> Case:
    image, mask = (_existing(row[column], column, data) for column in ("image", "mask"))
    named = Path(row["image"])
    # An absolute path tells of the machine and has no place in a record.
    name = named.name if named.is_absolute() else named.as_posix()
    patient = row["patient"] if has_patients else ""
    return Case(name, image, mask, patient or name, row)


def _existing(name: str, column: str, data: Path) -> Path:
    if not name:
        raise CxrsegError(data, f"a chosen row names no {column}", "fill it in")
    path = data.parent / name
    if not path.is_file():
        raise CxrsegError(path, f"no such {column} file", f"{data.name} names it")
    return path
