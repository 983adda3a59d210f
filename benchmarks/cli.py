"""The command ``cxrseg-bench``: a group with one module per subcommand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import click

from cxrseg.benchmarks import paper
from cxrseg.benchmarks.accuracy import accuracy, labels, significance, ssim
from cxrseg.benchmarks.harness import report
from cxrseg.benchmarks.methods import methods
from cxrseg.benchmarks.quality import quality, quality_fit
from cxrseg.benchmarks.quantization import compression, quantization_error, ranks
from cxrseg.benchmarks.speed import agreement, emulation, latency, roofline, startup, tradeoff
from cxrseg.runtime.terminal.console import run_command


@click.group(
    "cxrseg-bench",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="cxrseg")
def command() -> None:
    """Measure cxrseg models.

    \b
    Exit codes
      0    the measurement is complete
      1    it failed
      2    wrong usage
      130  interrupted by Ctrl-C; files already written are complete
    """


# A subcommand's module imports what is slow when it runs, so that --help answers at once.
command.add_command(accuracy.command)
command.add_command(agreement.command)
command.add_command(compression.command)
command.add_command(emulation.command)
command.add_command(labels.command)
command.add_command(latency.command)
command.add_command(methods.command)
command.add_command(paper.command)
command.add_command(quality.command)
command.add_command(quality_fit.command)
command.add_command(quantization_error.command)
command.add_command(ranks.command)
command.add_command(report.command)
command.add_command(roofline.command)
command.add_command(significance.command)
command.add_command(ssim.command)
command.add_command(startup.command)
command.add_command(tradeoff.command)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command with `args`, by default the program's, and exit."""
    run_command(command, args)


if __name__ == "__main__":
    main()
