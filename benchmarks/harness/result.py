"""What a benchmark gives: figures for programs, tables and plots for people."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """A table for people.

    Attributes:
        header: Titles; the first column is aligned left, the others right.
        rows: Cells as text, as many as titles in every row.
        title: Stands above the table; may be empty.
        note: A paragraph below it; may be empty. A table without rows is its note alone.
        per_image: Whether its rows are single images. It is printed, and recorded with the figures
            of each image instead of the summary.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    note: str = ""
    per_image: bool = False

    def to_text(self) -> str:
        """Return the table as aligned text that is Markdown, too."""
        # Imported here, so that --help needs no extra.
        from tabulate import tabulate

        aligned = ("left", *("right" for _ in self.header[1:]))
        table = tabulate(
            [[cell.replace("|", "\\|") for cell in row] for row in self.rows],
            list(self.header),
            tablefmt="pipe",
            colalign=aligned if self.rows else None,
            disable_numparse=True,
        )
        return "\n\n".join(
            part for part in (self.title, table if self.rows else "", self.note) if part
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "title": self.title,
            "header": list(self.header),
            "rows": [list(row) for row in self.rows],
            "note": self.note,
        }


@dataclass(frozen=True)
class Plot:
    """A finished picture.

    Attributes:
        name: Lower-case letters, digits and hyphens; becomes part of the file's name.
        png: The PNG file.
        caption: One or two sentences that say what is seen.
        shows_patients: Whether X-rays are seen, so that it must be stored like them.
    """

    name: str
    png: bytes
    caption: str
    shows_patients: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return name, caption, whether patients are seen, and the file's hash, for JSON."""
        return {
            "name": self.name,
            "caption": self.caption,
            "shows_patients": self.shows_patients,
            "sha256": hashlib.sha256(self.png).hexdigest(),
        }


@dataclass(frozen=True)
class Result:
    """What one run of a benchmark gives.

    Attributes:
        title: What was measured on what, for the heading.
        data: Summary figures, models, settings and data sets as plain data; numbers are finite.
        tables: The figures as tables for people.
        plots: Pictures.
        definitions: What the columns mean, in paragraphs.
        images: One entry per image, if any; they go into a file of their own.
        passed: False where a limit was missed: results are written, and the exit code is 1.
    """

    title: str
    data: Mapping[str, Any]
    tables: Sequence[Table]
    plots: Sequence[Plot] = ()
    definitions: str = ""
    images: Sequence[Mapping[str, Any]] = ()
    passed: bool = True
