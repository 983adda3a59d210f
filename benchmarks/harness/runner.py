"""Running a benchmark: its command, the checks before it, its tables, its record."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cxrseg.benchmarks.harness.parameters import PATH, Options, parameters, words
from cxrseg.benchmarks.harness.record import (
    check_output,
    environment,
    now,
    result_files,
    write_record,
)
from cxrseg.benchmarks.harness.result import Result
from cxrseg.runtime.files.apart import require_apart
from cxrseg.runtime.terminal.console import FAILED, OK, echo

Measure = Callable[[Any], Result]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        name: Name of the subcommand.
        options: Dataclass of its options.
        measure: From options to the result; its docstring is the command's help.
        plots: Names of the plots that it may draw.
    """

    name: str
    options: type[Options]
    measure: Measure
    plots: Sequence[str] = ()

    @property
    def command(self) -> click.Command:
        """The click command."""
        output = click.Option(
            ["-o", "--output"],
            metavar="FILE.json",
            type=PATH,
            help="Write the result there, its plots beside it as FILE-*.png, and figures of each"
            " image as FILE-images.json.",
        )
        return click.Command(
            self.name,
            params=[*parameters(self.options), output],
            callback=self._called,
            help=self.measure.__doc__,
        )

    def _called(self, output: Path | None, **values: Any) -> int:
        result = run(self, self.options(**values), output)
        return OK if result.passed else FAILED


def benchmark(
    name: str, options: type[Options], plots: Sequence[str] = ()
) -> Callable[[Measure], Benchmark]:
    """Decorate the function that measures; arguments as in `Benchmark`."""
    return lambda measure: Benchmark(name, options, measure, plots)


def circumstances_of(name: str, options: Options) -> dict[str, Any]:
    """Return what a record tells of how it is made, from now on.

    Args:
        name: Name of the subcommand.
        options: Its options; the command line repeats the run, paths cut down to file names.
    """
    seed = {"seed": options.seed} if hasattr(options, "seed") else {}
    return {
        "benchmark": name,
        "command": shlex.join(["cxrseg-bench", name, *words(options)]),
        "date": now(),
        **environment(),
        **seed,
    }


def run(
    benchmark: Benchmark,
    options: Options,
    output: Path | None = None,
    show: Callable[[str], None] = echo,
) -> Result:
    """Run a benchmark, show its tables and write its record.

    Args:
        benchmark: The benchmark.
        options: Its options.
        output: The JSON file to write; None = none.
        show: Takes each line that is printed.

    Raises:
        CxrsegError: The output cannot be written, which is checked before the work, or the
            benchmark fails.
        click.UsageError: Pictures of X-rays are asked for and no output.
    """
    if output is not None:
        values = [x if isinstance(x, tuple) else (x,) for x in vars(options).values()]
        read = [path for value in values for path in value if isinstance(path, Path)]
        for file in result_files(output, benchmark.plots):
            require_apart(file, read, "choose another name with -o")
        check_output(output, benchmark.plots)
    elif getattr(options, "xrays", False):
        raise click.UsageError("--xrays needs -o")
    facts = circumstances_of(benchmark.name, options)
    result = benchmark.measure(options)
    text = "\n\n".join([result.title, *(table.to_text() for table in result.tables)])
    for line in text.split("\n"):
        show(line)
    if output is not None:
        files = write_record(output, facts, result)
        patients = any(plot.shows_patients for plot in result.plots)
        warning = " (shows images of patients)" if patients else ""
        show(f"written: {', '.join(map(str, files))}{warning}")
    return result
