"""Options that several subcommands share."""

from __future__ import annotations

from pathlib import Path

import click

output_option = click.option(
    "-o",
    "--output",
    metavar="FILE.json",
    type=click.Path(path_type=Path),
    help="Write the results there, and a table beside it as FILE.md.",
)

threads_option = click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(1, 256),
    help="CPU threads.  [default: one per physical core]",
)
