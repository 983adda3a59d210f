"""The command ``cxrseg-bench``: its list, and that each command of the list is there."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from cxrseg.benchmarks.cli import SUBCOMMANDS, command
from cxrseg.runtime.core.errors import CxrsegError

EXTRA = {"jinja2", "matplotlib", "onnx", "scipy", "skimage", "tabulate", "torch", "tqdm", "yaml"}


def test_list_of_commands_needs_no_extra() -> None:
    code = (
        "import sys; from cxrseg.benchmarks.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print('\\n'.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"  {name} " in done.stdout for name in SUBCOMMANDS)
    modules = set(done.stdout.split())
    assert not EXTRA & modules
    assert not modules & {f"cxrseg.benchmarks.{module}" for module, _ in SUBCOMMANDS.values()}


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_the_list_says_what_each_command_says(name: str) -> None:
    subcommand = command.get_command(click.Context(command), name)
    assert subcommand is not None and subcommand.name == name
    assert subcommand.help is not None
    assert "\\b" not in subcommand.help, "click takes the character, not a backslash and a letter"
    assert " ".join(subcommand.help.split()).startswith(SUBCOMMANDS[name][1])
    assert SUBCOMMANDS[name][1].endswith(".") and SUBCOMMANDS[name][1].count(".") == 1


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cxrseg.benchmarks.methods.methods", None)
    with pytest.raises(CxrsegError, match=r"cxrseg\[train,bench\]"):
        command.get_command(click.Context(command), "methods")


def test_unknown_commands_are_refused() -> None:
    assert command.get_command(click.Context(command), "lunch") is None
