"""What every benchmark records beside its figures, and how it is written."""

from __future__ import annotations

import json
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from cxrseg.runtime.errors import CxrsegError
from cxrseg.runtime.files import write_together
from cxrseg.runtime.outputs import is_ours
from cxrseg.runtime.version import package_version

_MARK = "<!-- written by cxrseg-bench -->"


def environment() -> dict[str, Any]:
    """Return versions and machine as plain data, with nothing that names a person or a host.

    ``versions``: cxrseg, onnxruntime, numpy, opencv, python. ``machine``: CPU model, physical
    cores that this process may use, logical CPUs of the machine, system.
    """
    import cv2
    import numpy
    import onnxruntime

    from cxrseg.runtime.session import default_threads

    return {
        "versions": {
            "cxrseg": package_version(),
            "onnxruntime": str(onnxruntime.__version__),
            "numpy": str(numpy.__version__),
            "opencv": str(cv2.__version__),
            "python": platform.python_version(),
        },
        "machine": {
            "cpu": cpu_model(),
            "cores": default_threads(),
            "logical_cpus": os.cpu_count() or 1,
            "system": f"{platform.system()} {platform.machine()}",
        },
    }


def cpu_model() -> str:
    """Return the name of the CPU, or of its architecture where the system does not tell."""
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip().lower() == "model name" and value.strip():
                return value.strip()
    except OSError:
        pass  # Not Linux: the platform's own answer follows.
    return platform.processor() or platform.machine() or "unknown"


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def command_line(context: click.Context) -> str:
    """Return the command line to repeat a run, paths cut down to their file names.

    Options left at their defaults do not appear.

    Args:
        context: click's context of the running subcommand.
    """
    # Not click's own name of the program, which may be that of an interpreter.
    words = ["cxrseg-bench", context.command.name or ""]
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        value = context.params.get(name)
        if value is None or source in (None, ParameterSource.DEFAULT):
            continue
        for each in value if parameter.multiple or parameter.nargs == -1 else [value]:
            text = each.name if isinstance(each, Path) else str(each)
            if isinstance(parameter, click.Option):
                words.append(max(parameter.opts, key=len))
                if parameter.is_flag:
                    continue
            words.append(text)
    return shlex.join(words)


def circumstances(record: Mapping[str, Any]) -> str:
    """Return when, on which machine and with which versions a record was made, without a period.

    Args:
        record: With the entries ``date`` and those of `environment`.
    """
    machine, versions = record["machine"], record["versions"]
    programs = ", ".join(f"{name} {version}" for name, version in versions.items())
    place = f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}"
    return f"{record['date']}, {place}; {programs}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned table that reads well as plain text and is Markdown.

    Args:
        header: Titles; the first column is aligned left, the others right.
        rows: Cells, as many as titles in every row.
    """
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        padded[0] = row[0].ljust(widths[0])
        lines.append(f"| {' | '.join(padded)} |")
    rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([lines[0], f"| {' | '.join(rules)} |", *lines[1:]])


def check_output(path: Path) -> None:
    """Refuse, before the work, an output that could not be written after it.

    Args:
        path: The JSON file asked for; the Markdown file of the same stem is checked too.

    Raises:
        CxrsegError: It does not end in ``.json``, its folder is missing or not writable, or a
            file stands there that is no earlier result.
    """
    if path.suffix != ".json":
        raise CxrsegError(path, "the output does not end in .json", "name it like accuracy.json")
    if not path.parent.is_dir():
        raise CxrsegError(path.parent, "no such folder", "make it, or choose another with -o")
    if not os.access(path.parent, os.W_OK):
        raise CxrsegError(path.parent, "cannot be written to", "choose another folder with -o")
    for file, ours in ((path, is_ours), (path.with_suffix(".md"), _is_our_markdown)):
        if os.path.lexists(file) and not ours(file):
            cause = "exists and is no earlier result of cxrseg-bench, so it is kept"
            raise CxrsegError(file, cause, "rename it, or choose another name with -o")


def _is_our_markdown(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_MARK)) == _MARK.encode()
    except OSError:
        return False


def write_record(path: Path, benchmark: str, data: Mapping[str, Any], markdown: str) -> None:
    """Write a result as JSON and, beside it, as Markdown: both or none.

    Args:
        path: The JSON file; the Markdown file has the same stem.
        benchmark: Name of the subcommand.
        data: Plain data; numbers must be finite.
        markdown: Text of the Markdown file.

    Raises:
        CxrsegError: A file cannot be written, or one is there that is no earlier result.
    """
    check_output(path)
    # The first key is how `is_ours` tells our files from others.
    record = {"program": f"cxrseg {package_version()}", "benchmark": benchmark, **data}
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    page = f"{_MARK}\n{markdown.rstrip()}\n"
    write_together({path: text.encode(), path.with_suffix(".md"): page.encode()})
