"""What cxrseg's commands share at the terminal: messages, exit codes, progress."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn, Protocol, TypeVar

import click

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.terminal.interruption import ended_in_good_order, interrupted
from cxrseg.runtime.terminal.quiet import STDERR
from cxrseg.runtime.terminal.streams import lost_output, steady_streams

Item = TypeVar("Item")

OK = 0
FAILED = 1
INTERRUPTED = 130

DEBUG = "CXRSEG_DEBUG"
"""Environment variable that, when set, lets an unexpected exception show its traceback."""


def run_command(command: click.Command, args: Sequence[str] | None = None) -> NoReturn:
    """Run a command and leave the program with its exit code; no traceback for known failures.

    0 = the command returned None or 0; 1 = CxrsegError or a returned 1; 2 = wrong usage;
    130 = interrupted by Ctrl-C, SIGTERM or SIGHUP. Lines that standard output did not take cost no
    work, and turn 0 into 1.

    Args:
        command: The click command; its callback returns an exit code or None.
        args: Arguments; None = those of the program.

    Raises:
        SystemExit: Always.
    """
    steady_streams()
    with ended_in_good_order():
        code = _run(command, None if args is None else list(args))
    sys.stdout.flush()
    lost = lost_output()
    # Who closes a pipe early, as ``| head`` does, knows.
    if lost is not None and not isinstance(lost, BrokenPipeError):
        cause = f"could not be written ({lost.strerror or lost}), so lines are missing in it"
        fail(CxrsegError("standard output", cause, "make space, or send it elsewhere"))
    sys.exit(code or (OK if lost is None else FAILED))


def _run(command: click.Command, args: list[str] | None) -> int:
    try:
        code = command.main(args=args, prog_name=command.name, standalone_mode=False)
        return code if isinstance(code, int) else OK
    except CxrsegError as error:
        fail(error)
        return FAILED
    except click.ClickException as error:
        _explain(error)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _interrupted()
    except Exception as error:
        # Some libraries make a failure of their own out of an interruption.
        if interrupted():
            return _interrupted()
        if os.environ.get(DEBUG):
            raise
        cause = f"unexpected failure ({type(error).__name__}: {error})"
        remedy = f"please report it; {DEBUG}=1 in the environment shows where it happened"
        fail(CxrsegError(command.name or "cxrseg", cause, remedy))
        return FAILED


def _explain(error: click.ClickException) -> None:
    """Print what click says of wrong usage, which quotes arguments."""
    text = io.StringIO()
    error.show(text)
    for line in text.getvalue().rstrip("\n").split("\n"):
        echo(line, err=True)


def _interrupted() -> int:
    echo("error: interrupted; files already written are complete", err=True)
    return INTERRUPTED


def echo(text: str, err: bool = False) -> None:
    """Print one line, with anything that a terminal would take for a command made visible."""
    line = "".join(c if c.isprintable() else "?" for c in text)
    with STDERR if err else nullcontext():
        click.echo(line, err=err)


def fail(error: CxrsegError) -> None:
    """Print an error as one line on stderr."""
    echo(f"error: {error}", err=True)


class SectionedCommand(click.Command):
    """A command whose help lists its options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section after section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                section = getattr(parameter, "section", "Other options")
                sections.setdefault(section, []).append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)


class SectionedOption(click.Option):
    """An option of a `SectionedCommand`.

    Args:
        section: Heading in the help.
        arguments: As click.Option takes them.
    """

    def __init__(self, *declarations: Any, section: str, **arguments: Any) -> None:
        super().__init__(*declarations, **arguments)
        self.section = section


class Lines(Protocol):
    """Where a command reports the images that it goes through."""

    def done(self, text: str, err: bool = False) -> None:
        """Print the line of one finished item and advance."""


class _Plain:
    def done(self, text: str, err: bool = False) -> None:
        echo(text, err)


class _Barred:
    def __init__(self, bar: click._termui_impl.ProgressBar[int]) -> None:
        self._bar = bar

    def done(self, text: str, err: bool = False) -> None:
        with STDERR:
            # The bar's line is cleared first: stdout may be the same terminal.
            click.echo("\r\x1b[2K", err=True, nl=False)
            echo(text, err)
            self._bar.update(1)


@contextmanager
def progress(total: int) -> Iterator[Lines]:
    """Give a reporter of lines, with a progress bar on stderr where it helps.

    There is a bar for several items when stderr is a terminal.

    Args:
        total: Number of items.
    """
    if total < 2 or not sys.stderr.isatty():
        yield _Plain()
        return
    with click.progressbar(length=total, file=sys.stderr, show_pos=True) as bar:
        yield _Barred(bar)


def watched(items: Iterator[Item], count: int) -> Iterator[Item]:
    """Pass items on, with a progress bar on stderr as in `progress`.

    Args:
        items: What is worked on.
        count: Number of items.
    """
    if count < 2 or not sys.stderr.isatty():
        yield from items
        return
    with click.progressbar(items, length=count, file=sys.stderr, show_pos=True) as bar:
        yield from bar
