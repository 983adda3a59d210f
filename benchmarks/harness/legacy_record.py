"""What every benchmark records beside its figures, and how it is written."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cxrseg.runtime.core.atomic import write_together
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.own_files import MARK, is_ours
from cxrseg.runtime.core.version import package_version

if TYPE_CHECKING:
    from cxrseg.benchmarks.harness.legacy_figures import Drawing
    from cxrseg.runtime.inference.session import LoadedModel

_MARK = "<!-- written by cxrseg-bench -->"

SVG_MARK = f"<dc:title>{MARK} "
"""Stands near the beginning of our SVG files: the name of the program that drew them."""

MAX_BYTES = 200_000_000
"""Largest file of a result that is read."""

_HEAD = 2048


def environment(*packages: str) -> dict[str, Any]:
    """Return versions and machine as plain data, with nothing that names a person or a host.

    ``versions``: cxrseg, onnxruntime, numpy, opencv, python, and `packages`. ``machine``: CPU
    model, physical cores that this process may use, logical CPUs of the machine, system.

    Args:
        packages: Further installed distributions that the figures depend on.
    """
    import cv2
    import numpy
    import onnxruntime

    from cxrseg.runtime.inference.session import default_threads

    return {
        "versions": {
            "cxrseg": package_version(),
            "onnxruntime": str(onnxruntime.__version__),
            "numpy": str(numpy.__version__),
            "opencv": str(cv2.__version__),
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
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


def model_facts(path: Path, loaded: LoadedModel) -> dict[str, str]:
    """Return what a record tells of a model.

    Args:
        path: The model's file.
        loaded: The model.
    """
    card = loaded.card
    return {
        "file": path.name,
        "name": card.name,
        "version": card.version,
        "sha256": loaded.sha256,
    }


def csv_facts(
    data: Path, split: str, where: Sequence[str], limit: int | None, images: int
) -> dict[str, Any]:
    """Return what a record tells of the images, which are rows of a CSV.

    Args:
        data: The CSV.
        split: Value of its column split.
        where: Terms ``column=value`` that rows had to meet.
        limit: Most images; None = all.
        images: Number of images that there were.
    """
    return {
        "csv": data.name,
        "sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
        "split": split,
        "where": list(where),
        "limit": limit,
        "images": images,
    }


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
            if isinstance(parameter, click.Option):
                words.append(max(parameter.opts, key=len))
                if parameter.is_flag:
                    continue
            for part in each if isinstance(each, tuple) else (each,):
                words.append(part.name if isinstance(part, Path) else str(part))
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


def figure_files(path: Path, name: str) -> tuple[Path, Path]:
    """Return the PNG and the SVG file of a figure that belongs to the result `path`.

    Args:
        path: The JSON file.
        name: Name of the figure among those of this result.
    """
    stem = f"{path.stem}-{name}"
    return path.with_name(f"{stem}.png"), path.with_name(f"{stem}.svg")


def result_files(path: Path, figures: Iterable[str] = ()) -> list[Path]:
    """Return the files of a result: JSON, Markdown, and PNG and SVG of each figure.

    Args:
        path: The JSON file.
        figures: Names of the figures.
    """
    files = [path, path.with_suffix(".md")]
    for name in figures:
        files += figure_files(path, name)
    return files


def check_output(path: Path, figures: Sequence[str] = ()) -> None:
    """Refuse, before the work, an output that could not be written after it.

    Args:
        path: The JSON file asked for; the Markdown file of the same stem is checked too.
        figures: Names of the figures to come, whose files are checked as well.

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
    for file in result_files(path, figures):
        if os.path.lexists(file) and not _is_our_text(file) and not is_ours(file):
            cause = "exists and is no earlier result of cxrseg-bench, so it is kept"
            raise CxrsegError(file, cause, "rename it, or choose another name with -o")


def _is_our_text(path: Path) -> bool:
    """Tell whether a Markdown or SVG file is of cxrseg-bench."""
    ours = {".md": _MARK, ".svg": SVG_MARK}.get(path.suffix)
    try:
        with path.open("rb") as file:
            return ours is not None and ours.encode() in file.read(_HEAD)
    except OSError:
        return False


def write_record(
    path: Path,
    benchmark: str,
    data: Mapping[str, Any],
    markdown: str,
    figures: Mapping[str, Drawing] | None = None,
) -> None:
    """Write a result as JSON and, beside it, as Markdown, with its figures: all or nothing.

    Args:
        path: The JSON file; the Markdown file has the same stem, figures as in `figure_files`.
        benchmark: Name of the subcommand.
        data: Plain data; numbers must be finite.
        markdown: Text of the Markdown file.
        figures: Name of a figure, in lower-case letters and hyphens -> the figure.

    Raises:
        CxrsegError: A file cannot be written, or one is there that is no earlier result.
    """
    figures = figures or {}
    check_output(path, list(figures))
    # The first key is how `is_ours` tells our files from others.
    record = {"program": f"cxrseg {package_version()}", "benchmark": benchmark, **data}
    page, files = [f"{_MARK}\n{markdown.rstrip()}"], dict[Path, bytes]()
    for name, drawing in figures.items():
        png, svg = figure_files(path, name)
        files |= {png: drawing.png, svg: drawing.svg}
        page.append(f"![{drawing.caption}]({svg.name})")
    if figures:
        record["figures"] = [
            {"name": name, "caption": each.caption, "shows_patients": each.shows_patients}
            for name, each in figures.items()
        ]
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    contents = {path: text.encode(), path.with_suffix(".md"): ("\n\n".join(page) + "\n").encode()}
    write_together({**files, **contents})


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a result of `write_record`.

    Returns:
        What the JSON file holds; None where it holds something else than such a result.

    Raises:
        CxrsegError: It cannot be read, or is no JSON.
    """
    try:
        record = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise CxrsegError(path, f"is no JSON ({error})", "make it again") from error
    ours = isinstance(record, dict) and str(record.get("program")).startswith(f"{MARK} ")
    return record if ours and isinstance(record.get("benchmark"), str) else None


def read_bytes(path: Path) -> bytes:
    """Read a file of a result.

    Raises:
        CxrsegError: It cannot be read, or is larger than `MAX_BYTES`.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CxrsegError(path, "is too large for a result", "make it again")
        return path.read_bytes()
    except OSError as error:
        cause = f"cannot be read ({error.strerror})"
        raise CxrsegError(path, cause, "make the result again") from error


def written(path: Path, figures: Mapping[str, Drawing] | None = None) -> str:
    """Return the line that names the files of `write_record`."""
    figures = figures or {}
    files = result_files(path, figures)
    patients = any(each.shows_patients for each in figures.values())
    warning = " (the figure shows images of patients)" if patients else ""
    return f"written: {', '.join(map(str, files))}{warning}"
