"""``cxrseg-bench report``: the results in a folder as one page to read."""

from __future__ import annotations

from pathlib import Path

import click

from cxrseg.benchmarks.harness.parameters import PATH
from cxrseg.benchmarks.report.page import write_page
from cxrseg.benchmarks.report.sections import TITLE
from cxrseg.runtime.terminal.console import echo, fail


@click.command("report")
@click.argument("folder", metavar="RUN", type=PATH)
@click.option(
    "-o",
    "--output",
    metavar="FILE.html",
    type=PATH,
    help="The page to write.  [default: report.html in RUN]",
)
@click.option("--title", default=TITLE, show_default=True, help="Heading of the page.")
def report(folder: Path, output: Path | None, title: str) -> None:
    """Turn the results in a folder into one page to read and to print.

    RUN is a folder with files that cxrseg-bench wrote with -o, of whichever subcommands. The page
    holds their tables and plots with a few words on each, what the paper claims beside what was
    measured, and how everything was made. It is a single file that needs nothing else, no network
    either.

    \b
    Examples
      cxrseg-bench report results
      cxrseg-bench report runs/ward7/paper -o ward7.html --title "Ward 7"
    """
    output = output or folder / "report.html"
    for problem in write_page(folder, output, title):
        fail(problem)
    echo(f"written: {output}")
