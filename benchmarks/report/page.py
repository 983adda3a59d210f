"""The page of a folder of results, rendered from their records; it refers to nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from cxrseg.benchmarks.harness.record import (
    circumstances,
    now,
    plot_file,
    read_bytes,
    read_record,
)
from cxrseg.benchmarks.report.claims import claims
from cxrseg.benchmarks.report.sections import OTHER, SECTIONS
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.files.atomic import check_place, write_together

TEMPLATE = "page.jinja"

LONG = 24
"""Tables of more rows are folded."""

GENERATOR = '<meta name="generator" content="cxrseg-bench">'
"""How an earlier page is told from files of others."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}\Z")


@dataclass(frozen=True)
class Figure:
    """A plot inside the page: its data URI, caption, and whether it shows patients."""

    uri: str
    caption: str
    shows_patients: bool


@dataclass(frozen=True)
class Part:
    """One result on the page.

    Attributes:
        name: The name of its JSON file, also its place in the page.
        title: Its heading.
        record: What its JSON file holds.
        tables: Its tables as the record holds them: title, header, rows, note.
        figures: Its plots.
        definitions: What columns mean, in paragraphs.
        circumstances: When, where, with which versions and seed it was made.
    """

    name: str
    title: str
    record: Mapping[str, Any]
    tables: Sequence[Mapping[str, Any]]
    figures: Sequence[Figure]
    definitions: Sequence[str]
    circumstances: str


@dataclass(frozen=True)
class Section:
    """Results that answer one question."""

    title: str
    intro: str
    parts: Sequence[Part]


def read_folder(
    folder: Path, left_out: Collection[str] = ()
) -> tuple[list[Part], list[CxrsegError]]:
    """Read all results of ``cxrseg-bench`` in a folder; other files are passed over.

    Args:
        folder: The folder; the folders in it are not searched.
        left_out: Names of files that are passed over too.

    Returns:
        The results, and what could not be read.

    Raises:
        CxrsegError: It is missing, or holds no result.
    """
    if not folder.is_dir():
        raise CxrsegError(folder, "no such folder", "give the folder of results")
    parts: list[Part] = []
    problems: list[CxrsegError] = []
    for path in sorted(folder.glob("*.json")):
        if path.name in left_out:
            continue
        try:
            record = read_record(path)
            if record is not None:
                parts.append(_part(path, record, problems))
        except CxrsegError as error:
            problems.append(error)
    if not parts:
        remedy = "make some with cxrseg-bench accuracy -o, or all with cxrseg-bench paper"
        raise CxrsegError(folder, "holds no result of cxrseg-bench", remedy)
    return parts, problems


def _part(path: Path, record: Mapping[str, Any], problems: list[CxrsegError]) -> Part:
    figures = []
    for entry in _list(record.get("plots")):
        try:
            figures.append(_figure(path, entry))
        except CxrsegError as error:
            problems.append(error)
    return Part(
        name=path.name,
        title=str(record.get("title") or path.stem),
        record=record,
        tables=[_table(path, table) for table in _list(record["tables"])],
        figures=figures,
        definitions=str(record.get("definitions", "")).split("\n\n"),
        circumstances=_circumstances(record),
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _table(path: Path, table: Any) -> dict[str, Any]:
    """Check a table of a record: whatever it holds becomes text."""
    try:
        header = [str(cell) for cell in table["header"]]
        rows = [[str(cell) for cell in row] for row in table["rows"]]
        title, note = str(table["title"]), str(table["note"])
    except (LookupError, TypeError) as error:
        raise CxrsegError(path, "holds a damaged table", "make the result again") from error
    return {"title": title, "note": note, "header": header, "rows": rows}


def _circumstances(record: Mapping[str, Any]) -> str:
    try:
        start = circumstances(record)
    except (LookupError, TypeError, AttributeError):
        return ""  # A record of another version: not every one tells.
    return f"{start}; seed {record['seed']}" if "seed" in record else start


def _figure(path: Path, entry: Any) -> Figure:
    """Return a plot of a result, whose file is named after the result's own."""
    name = entry.get("name") if isinstance(entry, dict) else None
    # It becomes part of a path, so it must be nothing but a name.
    if not isinstance(name, str) or not _NAME.match(name):
        raise CxrsegError(path, "names a plot in a way that cannot be", "the plot is left out")
    file = plot_file(path, name)
    png = read_bytes(file)
    digest = hashlib.sha256(png).hexdigest()
    # Older results tell no hash.
    if entry.get("sha256", digest) != digest:
        raise CxrsegError(file, f"is of another run than {path.name}", "make the result again")
    data = base64.b64encode(png).decode("ascii")
    return Figure(
        f"data:image/png;base64,{data}",
        str(entry.get("caption", "")),
        bool(entry.get("shows_patients")),
    )


def sections(parts: Sequence[Part]) -> list[Section]:
    """Group results by the question that they answer, in the order of `SECTIONS`.

    Within a section the oldest stands first.
    """
    parts = sorted(parts, key=lambda part: (str(part.record.get("date", "")), part.name))
    grouped = []
    for benchmark, (title, intro) in SECTIONS.items():
        own = [part for part in parts if part.record["benchmark"] == benchmark]
        if own:
            grouped.append(Section(title, intro, own))
    rest = [part for part in parts if part.record["benchmark"] not in SECTIONS]
    return [*grouped, Section(*OTHER, rest)] if rest else grouped


def render(parts: Sequence[Part], problems: Sequence[CxrsegError], title: str) -> str:
    """Return the page as HTML.

    Args:
        parts: The results.
        problems: What could not be read.
        title: The page's title.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    ordered = sections(parts)
    shown = [part for section in ordered for part in section.parts]
    return environment.get_template(TEMPLATE).render(
        generator=Markup(GENERATOR),
        title=title,
        version=package_version(),
        date=now(),
        sections=ordered,
        claims=claims((part.name, part.record) for part in shown),
        shows_patients=any(f.shows_patients for part in shown for f in part.figures),
        problems=[str(problem) for problem in problems],
        long=LONG,
    )


def check_page(path: Path) -> None:
    """Refuse, before the work, a page that could not be written after it.

    Raises:
        CxrsegError: It does not end in ``.html``, its folder is missing, or a file stands there
            that is no earlier page.
    """
    if path.suffix != ".html":
        raise CxrsegError(path, "the page does not end in .html", "name it like report.html")
    if not path.resolve().parent.is_dir():
        raise CxrsegError(path.parent, "no such folder", "make it, or choose another with -o")
    check_place(path, "choose another name with -o")
    if path.exists() and GENERATOR.encode() not in read_bytes(path)[:4096]:
        cause = "exists and is no page of cxrseg-bench, so it is kept"
        raise CxrsegError(path, cause, "rename it, or choose another name with -o")


def write_page(
    folder: Path, output: Path, title: str, left_out: Collection[str] = ()
) -> list[CxrsegError]:
    """Write the page of a folder.

    Args:
        folder: The folder of results.
        output: The page.
        title: Its title.
        left_out: Names of files that are not to be shown.

    Returns:
        What could not be shown.

    Raises:
        CxrsegError: There is no result, or the page cannot be written.
    """
    check_page(output)
    parts, problems = read_folder(folder, left_out)
    write_together({output: render(parts, problems, title).encode()})
    return problems
