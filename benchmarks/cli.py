"""The command ``cxrseg-bench``: a table of its subcommands, each loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import click

from cxrseg.benchmarks.harness.runner import Benchmark
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.terminal.console import run_command

SUBCOMMANDS = {
    "accuracy": ("accuracy.accuracy", "Compare a model's lungs with reference masks."),
    "significance": ("accuracy.significance", "Test whether two models' Dice differ or agree."),
    "ssim": ("accuracy.ssim", "Map where on the image the masks of two models differ."),
    "latency": ("speed.latency", "Measure size, speed and memory of models on this computer."),
    "startup": ("speed.startup", "Time a cold cxrseg-run as a whole process."),
    "roofline": ("speed.roofline", "Compare models with the most that this computer multiplies."),
    "agreement": ("agreement.agreement", "Compare masks between execution providers and PyTorch."),
    "emulation": ("agreement.emulation", "Compare masks with those of emulated older CPUs."),
    "compression": ("quantization.compression", "Count parameters and bytes, the paper's too."),
    "quantization-error": (
        "quantization.error",
        "Show what INT8 does to weights and layers.",
    ),
    "ranks": ("quantization.ranks", "Show where AdaLoRA spent its budget."),
    "quality": ("quality.quality", "Count how often images are flagged."),
    "quality-fit": ("quality.quality_fit", "Fit the limits of the flags to a model."),
    "methods": ("methods.methods", "Train and compare methods on the same images."),
    "paper": ("paper", "Make all of the paper's evidence for one training run."),
    "report": ("report.command", "Turn the results in a folder into one page."),
}
"""Subcommand -> its module, which has a `Benchmark` or click command of its name, and its line in
the list."""


class Subcommands(click.Group):
    """The subcommands of `SUBCOMMANDS`; a module is imported when its command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a subcommand.

        Raises:
            CxrsegError: Packages that it needs are not installed.
        """
        if cmd_name not in SUBCOMMANDS:
            return None
        module = f"cxrseg.benchmarks.{SUBCOMMANDS[cmd_name][0]}"
        try:
            found = import_module(module)
        except ModuleNotFoundError as error:
            cause = f"needs a package that is not installed ({error.name})"
            raise CxrsegError(
                f"cxrseg-bench {cmd_name}", cause, 'pip install "cxrseg[bench]"'
            ) from error
        found = getattr(found, cmd_name.replace("-", "_"), None) or found.command
        command: click.Command = found.command if isinstance(found, Benchmark) else found
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list from the table, so that --help imports no benchmark."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in SUBCOMMANDS.items()])


@click.command(
    "cxrseg-bench",
    cls=Subcommands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="cxrseg")
def command() -> None:
    """Measure cxrseg models.

    \b
    Exit codes
      0    the measurement is complete
      1    it failed, or a limit was missed
      2    wrong usage
      130  interrupted by Ctrl-C; files already written are complete
    """


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command with `args`, by default the program's, and exit."""
    run_command(command, args)


if __name__ == "__main__":
    main()
