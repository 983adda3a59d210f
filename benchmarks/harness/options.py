"""Options that several benchmarks share, by inheritance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from cxrseg.benchmarks.harness.parameters import PATH, option
from cxrseg.runtime.core.labels import PROTOCOLS, Protocol
from cxrseg.runtime.inference.devices import AUTO, DEVICES


def _terms(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    for value in values:
        if not value.partition("=")[0] or "=" not in value:
            raise click.BadParameter(f"{value!r} is not column=value")
    return values


@dataclass(frozen=True)
class SeedOptions:
    """The seed of everything that is drawn at random."""

    seed: int = option("--seed", default=0, type=click.IntRange(min=0), help="Seed.")


@dataclass(frozen=True)
class ThreadOptions:
    """How many threads compute on the CPU."""

    threads: int | None = option(
        "--threads",
        default=None,
        metavar="N",
        type=click.IntRange(1, 256),
        help="CPU threads.  [default: one per physical core]",
    )


@dataclass(frozen=True)
class DeviceOptions(ThreadOptions):
    """What computes."""

    device: str = option(
        "--device", default=AUTO, type=click.Choice(DEVICES), help="What to compute on."
    )


@dataclass(frozen=True)
class WhereOptions:
    """Values that rows of a CSV must have."""

    where: tuple[str, ...] = option(
        "--where",
        default=(),
        multiple=True,
        metavar="COLUMN=VALUE",
        callback=_terms,
        help="Only rows with this value; repeat to narrow down, or for other values of the same"
        " column.",
    )


@dataclass(frozen=True)
class RowOptions(WhereOptions):
    """Which rows of a CSV are taken."""

    split: str = option(
        "--split",
        default="test",
        metavar="NAME",
        help="Rows to evaluate, by their column split.",
    )
    protocol: Protocol = option(
        "--protocol",
        default="fields",
        type=click.Choice(PROTOCOLS),
        help="What to segment. Rows of another value in a column protocol are left out.",
    )
    limit: int | None = option(
        "--limit",
        default=None,
        metavar="N",
        type=click.IntRange(min=1),
        help="Evaluate N images only, spread evenly over all.",
    )


@dataclass(frozen=True)
class DataOptions(RowOptions):
    """Images with reference masks: rows of a CSV."""

    data: Path = option(
        "--data",
        metavar="CSV",
        type=PATH,
        help="Columns image, mask, split and others; paths relative to the file.",
    )
    by: str | None = option(
        "--by",
        default=None,
        metavar="COLUMN",
        help="Also give figures per value of this column.  [default: source, if it is there]",
    )


@dataclass(frozen=True)
class ImageOptions(RowOptions):
    """Images without masks: a folder, or rows of a CSV."""

    images: Path = option(
        "--images",
        metavar="FOLDER|CSV",
        type=PATH,
        help="Folder of X-rays, or a CSV with the columns image and split.",
    )
