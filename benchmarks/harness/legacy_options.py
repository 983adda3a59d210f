"""Options that several subcommands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from cxrseg.runtime.core.errors import CxrsegError, require_extra
from cxrseg.runtime.core.labels import PROTOCOLS, Protocol
from cxrseg.runtime.inference.devices import AUTO, DEVICES

EXTRA = ("jinja2", "markdown_it", "matplotlib", "scipy", "skimage", "torch", "onnx", "onnx_ir")
"""Modules that the extra ``bench`` brings."""


def require_bench(command: str) -> None:
    """Check that a subcommand finds the packages of the extra ``bench``.

    Raises:
        CxrsegError: Some are missing; the message says what to install.
    """
    require_extra(f"cxrseg-bench {command}", "bench", EXTRA)


def _terms(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    for value in values:
        if not value.partition("=")[0] or "=" not in value:
            raise click.BadParameter(f"{value!r} is not column=value")
    return values


def columns_and_values(where: Sequence[str]) -> list[tuple[str, str]]:
    """Return the terms of `where_option`, ``column=value``, as pairs (column, value)."""
    return [(term.partition("=")[0], term.partition("=")[2]) for term in where]


def images_and_facts(
    context: click.Context,
    images: Path,
    split: str,
    where: Sequence[str],
    protocol: Protocol,
    limit: int | None,
) -> tuple[list[tuple[str, Path]], dict[str, Any]]:
    """List the images of a folder, or of a CSV's rows.

    Args:
        context: click's context of the running subcommand.
        images: Folder or CSV.
        split: Value of `split_option`.
        where: Terms of `where_option`.
        protocol: Value of `protocol_option`.
        limit: Value of `limit_option`.

    Returns:
        Name and path of each image, and what the record tells of them.

    Raises:
        CxrsegError: There is no such folder or CSV, or no image in it.
        click.UsageError: An option chooses rows, and `images` is a folder.
    """
    # Imported here, so that --help answers at once.
    from cxrseg.benchmarks.harness.legacy_record import csv_facts
    from cxrseg.benchmarks.harness.legacy_samples import read_cases, spread
    from cxrseg.runtime.readers import find_images

    if images.is_dir():
        for name in ("split", "where", "protocol"):
            if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
                raise click.UsageError(f"--{name} chooses rows of a CSV; {images} is a folder")
        found = spread(find_images([images]), limit)
        listed = {"folder": images.name, "limit": limit, "images": len(found)}
        return [(path.name, path) for path in found], listed
    if not images.is_file():
        raise CxrsegError(images, "no such folder or CSV", "check --images")
    cases = read_cases(images, split, columns_and_values(where), protocol, limit)
    facts = csv_facts(images, split, where, limit, len(cases))
    return [(case.name, case.image) for case in cases], {**facts, "protocol": protocol}


output_option = click.option(
    "-o",
    "--output",
    metavar="FILE.json",
    type=click.Path(path_type=Path),
    help="Write the results there, and a table beside it as FILE.md.",
)

device_option = click.option(
    "--device",
    type=click.Choice(DEVICES),
    default=AUTO,
    show_default=True,
    help="What to compute on.",
)

threads_option = click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(1, 256),
    help="CPU threads.  [default: one per physical core]",
)

data_option = click.option(
    "--data",
    required=True,
    metavar="CSV",
    type=click.Path(path_type=Path),
    help="Columns image, mask, split and others; paths relative to the file.",
)

split_option = click.option(
    "--split",
    default="test",
    show_default=True,
    metavar="NAME",
    help="Rows to evaluate, by their column split.",
)

where_option = click.option(
    "--where",
    multiple=True,
    metavar="COLUMN=VALUE",
    callback=_terms,
    help="Only rows with this value; repeat to narrow down, or for other values of the"
    " same column.",
)

protocol_option = click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    default="fields",
    show_default=True,
    help="What to segment. Rows of another value in a column protocol are left out.",
)

by_option = click.option(
    "--by",
    metavar="COLUMN",
    help="Also give figures per value of this column.  [default: source, if it is there]",
)

seed_option = click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Seed of the bootstrap.",
)

limit_option = click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    help="Evaluate N images only, spread evenly over all.",
)
