"""The command ``cxrseg-bench``: a table of its subcommands, each loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import click

from cxrseg.benchmarks.harness.runner import Benchmark
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.version import VERSION
from cxrseg.runtime.terminal.console import run_command

SUBCOMMANDS = {
    "accuracy": ("accuracy.accuracy", "Compare a model's lungs with reference masks."),
    "significance": (
        "accuracy.significance",
        "Test whether two models score differently, and whether they are equivalent.",
    ),
    "ssim": (
        "accuracy.ssim",
        "Compare two models by the structural similarity of their masks with the truth.",
    ),
    "box-prompts": (
        "methods.box_prompts",
        "Score a SAM that is prompted with a box, as the paper does.",
    ),
    "latency": ("speed.latency", "Measure size, speed and memory of models on this computer."),
    "startup": (
        "speed.startup",
        "Measure what a cold cxrseg-run of one IMAGE takes, start to end.",
    ),
    "roofline": (
        "speed.roofline",
        "Measure the most that this CPU multiplies, and the share of it that models reach.",
    ),
    "agreement": (
        "agreement.agreement",
        "Compare masks of every execution provider, and of PyTorch, with those of the CPU.",
    ),
    "emulation": (
        "agreement.emulation",
        "Compare masks of emulated older CPUs with those of this machine.",
    ),
    "compression": ("quantization.compression", "Count parameters and bytes, the paper's too."),
    "quantization-error": (
        "quantization.error",
        "Show what INT8 does to weights and layers.",
    ),
    "ranks": ("quantization.ranks", "Show where AdaLoRA spent its budget."),
    "quality": ("quality.quality", "Measure how often the runtime flags images."),
    "quality-fit": (
        "quality.quality_fit",
        "Fit the quality reference of a model, and write it into the model file.",
    ),
    "methods": (
        "methods.methods",
        "Train in several ways on the same images, and compare accuracy, size and latency.",
    ),
    "paper": ("paper", "Make all of the paper's evidence for a checkpoint, and a page of it."),
    "report": (
        "report.command",
        "Turn the results in a folder into one page to read and to print.",
    ),
}
"""Subcommand -> its module and its line in the list. The module holds a `Benchmark` or a click
command of the same name, with _ for -."""


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
        try:
            module = import_module(f"cxrseg.benchmarks.{SUBCOMMANDS[cmd_name][0]}")
        except ModuleNotFoundError as error:
            cause = f"needs a package that is not installed ({error.name})"
            raise CxrsegError(
                f"cxrseg-bench {cmd_name}", cause, 'pip install "cxrseg[train,bench]"'
            ) from error
        found = getattr(module, cmd_name.replace("-", "_"))
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
@click.version_option(VERSION)
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
