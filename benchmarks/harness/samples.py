"""The images that a benchmark runs on, and what its record tells of models and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cxrseg.benchmarks.harness.options import DataOptions, ImageOptions, RowOptions
from cxrseg.benchmarks.harness.parameters import changed
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.files.digest import sha256_of
from cxrseg.runtime.inference.loading import LoadedModel
from cxrseg.runtime.readers import find_images
from cxrseg.trainer.data.samples import spread
from cxrseg.trainer.data.tables import Row, Table, named_file, open_table, recorded_name

REQUIRED = ("image", "mask", "split")
"""Columns that the CSV must have."""


@dataclass(frozen=True)
class Sample:
    """One image with its reference mask.

    Attributes:
        name: The image as the CSV names it; the file name alone if that is an absolute path.
        image: Path of the image.
        mask: Path of the mask.
        patient: The patient, or the image's name where the CSV has no such column.
        row: The whole row, column -> text.
    """

    name: str
    image: Path
    mask: Path
    patient: str
    row: Mapping[str, str]


def read_samples(data: Path, options: RowOptions) -> list[Sample]:
    """Read the rows to evaluate and check that their files are there.

    Rows with another value in a column ``protocol``, if there is one, are left out: the two ways
    to outline a lung are not comparable. No split but the one named is ever read.

    Args:
        data: CSV with the columns ``image``, ``mask``, ``split`` and any others; paths are
            relative to it.
        options: Which rows; terms of ``where`` on one column accept either value.

    Returns:
        The samples, at least one, in the order of the CSV.

    Raises:
        CxrsegError: The CSV is missing or malformed, lacks a column, no row matches, or a file
            that it names is missing.
    """
    table = open_table(data)
    terms = [(term.partition("=")[0], term.partition("=")[2]) for term in options.where]
    table.require(*REQUIRED, *(column for column, _ in terms))
    wanted: dict[str, set[str]] = {"split": {options.split}}
    if "protocol" in table.columns:
        wanted["protocol"] = {options.protocol}
    asked: dict[str, set[str]] = {}
    for column, value in terms:
        asked.setdefault(column, set()).add(value)
    chosen = list(table.chosen(lambda row: _matches(row, wanted) and _matches(row, asked)))
    if not chosen:
        raise CxrsegError(data, *_no_row(table, {**wanted, **asked}, options.split))
    return [_sample(table, line, row) for line, row in spread(chosen, options.limit)]


def grouping(samples: Sequence[Sample], options: DataOptions) -> str | None:
    """Return the column whose values become groups: that of ``by``, else ``source`` if it is there.

    Raises:
        CxrsegError: The CSV has no column of this name.
    """
    columns = samples[0].row
    if options.by is None:
        return "source" if "source" in columns else None
    if options.by not in columns:
        raise CxrsegError(options.data, f"has no column {options.by!r}", "name another with --by")
    return options.by


def list_images(options: ImageOptions) -> tuple[list[tuple[str, Path]], dict[str, Any]]:
    """List the images of a folder, or of a CSV's rows.

    Returns:
        Name and path of each image, and what the record tells of them.

    Raises:
        CxrsegError: There is no such folder or CSV, or no image in it.
        click.UsageError: An option chooses rows, and the images are those of a folder.
    """
    images = options.images
    if images.is_dir():
        for name in changed(options, "split", "where", "protocol"):
            raise click.UsageError(f"--{name} chooses rows of a CSV; {images} is a folder")
        found = spread(find_images([images]), options.limit)
        facts = {"folder": images.name, "limit": options.limit, "images": len(found)}
        return [(path.name, path) for path in found], facts
    if not images.is_file():
        raise CxrsegError(images, "no such folder or CSV", "check --images")
    samples = read_samples(images, options)
    facts = {**csv_facts(images, options, len(samples)), "protocol": options.protocol}
    return [(sample.name, sample.image) for sample in samples], facts


def model_facts(path: Path, loaded: LoadedModel) -> dict[str, str]:
    """Return what a record tells of a model: file name, name, version, SHA-256."""
    card = loaded.card
    return {
        "file": path.name,
        "name": card.name,
        "version": card.version,
        "sha256": loaded.sha256,
    }


def csv_facts(data: Path, options: RowOptions, images: int) -> dict[str, Any]:
    """Return what a record tells of images that are rows of a CSV.

    Args:
        data: The CSV.
        options: Which rows were taken.
        images: Number of images that there were.
    """
    return {
        "csv": data.name,
        "sha256": sha256_of(data),
        "split": options.split,
        "where": list(options.where),
        "limit": options.limit,
        "images": images,
    }


def _matches(row: Mapping[str, str], terms: Mapping[str, set[str]]) -> bool:
    # As the trainer, which takes a row without a protocol for one of fields.
    row = {**row, "protocol": row.get("protocol") or "fields"}
    return all(row[column] in values for column, values in terms.items())


def _no_row(table: Table, wanted: Mapping[str, set[str]], split: str) -> tuple[str, str]:
    """Return cause and remedy for a selection that is empty."""
    terms = [f"{column} = {' or '.join(sorted(values))}" for column, values in wanted.items()]
    splits = sorted({row["split"] for _, row in table.rows()})
    if split not in splits:
        remedy = f"--split takes {', '.join(splits)}" if splits else "the file holds no rows"
    else:
        remedy = "loosen --where, --split or --protocol"
    return f"no row has {' and '.join(terms)}", remedy


def _sample(table: Table, line: int, row: Row) -> Sample:
    image, mask = (named_file(table, line, row, column) for column in ("image", "mask"))
    name = recorded_name(row["image"])
    return Sample(name, image, mask, row.get("patient") or name, row)
