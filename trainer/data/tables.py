"""CSV files as people have them: comma or semicolon, any encoding, made on Windows or not."""

from __future__ import annotations

import codecs
import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import chain
from pathlib import Path, PureWindowsPath

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.files.opening import open_file

Row = dict[str, str]
"""Name of a column -> text, without blanks around it."""

MAX_LINE = 65_536
"""Longest line accepted, in characters."""

MAX_CELL = 4_096
"""Longest cell accepted, in characters: no path is longer."""

MAX_CHOSEN = 500_000
"""Most rows that are worked on; the largest public set of chest X-rays has 377,110."""

_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
"""How files of Excel itself begin."""

_DELIMITERS = ",;\t|"
_CHUNK = 1 << 20
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # Before UTF-16, whose mark it begins with.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What Excel writes first where other programs should know its delimiter.
_SEPARATOR = re.compile(r'"?sep=([,;\t|])"?\s*', re.IGNORECASE)


@dataclass(frozen=True)
class Table:
    """A CSV file, whose rows are read as they are asked for.

    Attributes:
        path: The file.
        columns: Names of the columns; of those without a name, empty.
        encoding: Python's name of its encoding.
    """

    path: Path
    columns: tuple[str, ...]
    encoding: str

    def require(self, *names: str) -> None:
        """Check that columns are there.

        Raises:
            CxrsegError: One is missing.
        """
        for name in names:
            if name not in self.columns:
                there = ", ".join(filter(None, self.columns)) or "none"
                cause = f"has no column {name!r}; there are {there}"
                raise CxrsegError(self.path, cause, "the first line names the columns")

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Yield the number of each line and what it holds; cells that are missing are empty.

        Raises:
            CxrsegError: A line is malformed, or has more cells than there are columns.
        """
        width = len(self.columns)
        records = _records(self.path, self.encoding)
        next(records)
        for line, cells in records:
            if any(cells[width:]):
                cause = f"line {line} has more cells than the first"
                raise CxrsegError(self.path, cause, "put a cell with such characters in quotes")
            if max(map(len, cells)) > MAX_CELL:
                cause = f"line {line} has a cell of more than {MAX_CELL} characters"
                raise CxrsegError(self.path, cause, "shorten it")
            cells += [""] * (width - len(cells))
            yield (
                line,
                {name: text for name, text in zip(self.columns, cells, strict=False) if name},
            )

    def chosen(self, wanted: Callable[[Row], bool]) -> Iterator[tuple[int, Row]]:
        """Yield those rows that are wanted, as `rows` does.

        Raises:
            CxrsegError: As `rows`; or more than `MAX_CHOSEN` are.
        """
        matching = ((line, row) for line, row in self.rows() if wanted(row))
        for number, found in enumerate(matching):
            if number == MAX_CHOSEN:
                cause = f"more than {MAX_CHOSEN} rows are chosen"
                raise CxrsegError(self.path, cause, "choose fewer, or split the file")
            yield found


def open_table(path: Path) -> Table:
    """Look at a CSV file: its encoding, and the columns that its first line names.

    The cells stand between commas, semicolons, tabs or bars, whichever gives most columns. The
    text is UTF-8, UTF-16 or UTF-32; whatever is neither is taken for Windows-1252.

    Raises:
        CxrsegError: The file is missing or no CSV file, or names a column twice.
    """
    encoding = _encoding(path)
    _, columns = next(_records(path, encoding), (1, []))
    twice = [name for name, count in Counter(filter(None, columns)).items() if count > 1]
    if twice:
        raise CxrsegError(path, f"has two columns {twice[0]!r}", "rename or remove one")
    return Table(path, tuple(columns), encoding)


def named_file(table: Table, line: int, row: Row, column: str) -> Path:
    """Return the file that a cell names, relative to the table; backslashes of Windows are read.

    Raises:
        CxrsegError: The cell is empty, or there is no such file.
    """
    name, place = row[column], f"line {line} of {table.path.name}"
    if not name:
        raise CxrsegError(table.path, f"line {line} names no {column}", "fill it in")
    path = table.path.parent / name
    for candidate in (path, table.path.parent / name.replace("\\", "/")):
        # The name may be one that no file can have.
        with suppress(OSError):
            if candidate.is_file():
                return candidate
    if PureWindowsPath(name).drive and os.sep == "/":
        cause = f"is a path of another machine, with a drive letter ({place})"
        raise CxrsegError(name, cause, "give paths relative to the CSV file")
    raise CxrsegError(path, f"no such {column} file ({place})", "check the name")


def recorded_name(name: str) -> str:
    """Return what a record may tell of a file's name: an absolute path tells of the machine."""
    path = PureWindowsPath(name)
    return path.name if path.root else path.as_posix()


def _records(path: Path, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line and its cells, the names of the columns first."""
    with _explained(path), TextIOWrapper(open_file(path), encoding, newline="") as file:
        lines = _lines(file, path)
        first = next(lines, "")
        told = _SEPARATOR.fullmatch(first)
        delimiter = told[1] if told else _delimiter(first)
        rest = lines if told else chain([first], lines)
        reader = csv.reader(rest, delimiter=delimiter, strict=True, skipinitialspace=True)
        for record in reader:
            cells = [cell.strip() for cell in record]
            if any(cells):
                yield reader.line_num + bool(told), cells


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what reading raises into one line for the user."""
    remedy = "give the path of a CSV file"
    try:
        yield
    except FileNotFoundError as error:
        raise CxrsegError(path, "no such file", remedy) from error
    except OSError as error:
        raise CxrsegError(path, f"cannot be read ({error.strerror or error})", remedy) from error
    except (csv.Error, UnicodeError) as error:
        raise _no_csv(path, str(error)) from error


def _no_csv(path: Path, why: str) -> CxrsegError:
    return CxrsegError(path, f"is not a CSV file ({why})", "save it as CSV in UTF-8")


def _lines(file: TextIOWrapper, path: Path) -> Iterator[str]:
    while line := file.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise _no_csv(path, f"a line has more than {MAX_LINE} characters")
        yield line


def _delimiter(first: str) -> str:
    """Return what cuts the first line into most cells; the comma where nothing does."""

    def cells(delimiter: str) -> int:
        return len(next(csv.reader([first], delimiter=delimiter), []))

    return max(_DELIMITERS, key=cells)


def _encoding(path: Path) -> str:
    """Tell the encoding of a file by its mark, or by reading all of it."""
    with _explained(path), open_file(path) as file:
        head = file.read(_CHUNK)
        if head.startswith(_WORKBOOKS):
            raise _no_csv(path, "it is a workbook")
        for mark, encoding in _BOMS:
            if head.startswith(mark):
                return encoding
        # Every second byte of ASCII in UTF-16 is 0, and none in other texts.
        for encoding, zeros in (("utf-16-le", head[1:200:2]), ("utf-16-be", head[:200:2])):
            if zeros and not any(zeros):
                return encoding
        decoder = codecs.getincrementaldecoder("utf-8")()
        encoding, chunk = "utf-8", head
        while chunk:
            if b"\0" in chunk:
                raise _no_csv(path, "it holds bytes of 0")
            if encoding == "utf-8":
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError:
                    encoding = "cp1252"
            chunk = file.read(_CHUNK)
    return encoding
