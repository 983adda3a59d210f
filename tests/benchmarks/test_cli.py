"""The command ``cxrseg-bench`` answers where only the runtime is installed."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from cxrseg.benchmarks.cli import SUBCOMMANDS, command

EXTRA = {"jinja2", "matplotlib", "onnx", "scipy", "skimage", "tabulate", "torch", "tqdm", "yaml"}


def test_list_of_commands_needs_no_extra() -> None:
    code = (
        "import sys; from cxrseg.benchmarks.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print('\\n'.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "accuracy " in done.stdout
    assert not EXTRA & set(done.stdout.split())


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_help_keeps_its_lines(name: str) -> None:
    found = command.get_command(click.Context(command), name)
    assert found is not None and found.help
    assert "\\b" not in found.help, "click takes the character, not a backslash and a letter"
