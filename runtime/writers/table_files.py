"""Where tables of many images go: files, devices and pipes."""

from __future__ import annotations

import errno
import io
import json
import os
import select
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.files.atomic import atomic_write, check_place
from cxrseg.runtime.files.locks import take
from cxrseg.runtime.files.opening import descriptor_of, open_file, open_stream, place_of
from cxrseg.runtime.terminal.interruption import uninterrupted
from cxrseg.runtime.terminal.streams import was_closed
from cxrseg.runtime.writers.tables import LINE_START, Record, header, line, row

Add = Callable[[Record], None]
"""Adds what became of one input to a table."""


Lost = Callable[[CxrsegError], None]
"""Takes why a record did not get into a table."""

_MAX_LATE = 10_000
_MAX_LINE = 1 << 20


@contextmanager
def summary(table: Path | None, lines: Path | None, append: bool, lost: Lost) -> Iterator[Add]:
    """Give a function that takes the records of all inputs, one after another.

    Args:
        table: Where the CSV table goes; None = nowhere.
        lines: Where the JSON Lines go; None = nowhere.
        append: As `json_lines` takes it.
        lost: Takes what goes wrong with a single record; the others follow.

    Raises:
        CxrsegError: A file exists and is no earlier one of its kind, or it cannot be written.
    """
    with ExitStack() as stack:
        adds: list[Add] = []
        if table is not None:
            adds.append(stack.enter_context(csv_table(table)))
        if lines is not None:
            adds.append(stack.enter_context(json_lines(lines, append)))

        def add(record: Record) -> None:
            for add_to_file in adds:
                try:
                    add_to_file(record)
                except CxrsegError as error:
                    lost(error)

        yield add


@contextmanager
def csv_table(path: Path) -> Iterator[Add]:
    """Give a function that adds rows to a table.

    A file is written when the block ends, and when it fails: the rows of an interrupted run are
    complete. Ctrl-C costs those of the images in work, and of images that were done while one
    before them was in work. A device or a pipe takes each row at once.

    Args:
        path: A file, new or an earlier table; a device or a pipe; ``-`` is standard output.

    Raises:
        CxrsegError: The file exists and is no earlier table of cxrseg, or it cannot be written.
    """
    with _stream(path, "--csv") as send:
        if send is not None:
            send(header())
            yield lambda record: send(row(record))
            return
    _check(path, "--csv", "a table of this version of cxrseg", header())
    data = io.BytesIO()
    data.write(header())

    def add(record: Record) -> None:
        data.write(row(record))

    try:
        yield add
    finally:
        with uninterrupted(), atomic_write(path, _remedy("--csv")) as temporary:
            temporary.write_bytes(data.getbuffer())


@contextmanager
def json_lines(path: Path, append: bool = False) -> Iterator[Add]:
    """Give a function that adds lines, each written at once.

    A line that a file cannot take, as on a full disk, raises, and is written before the next one or
    at the end; at most 10,000 are kept so.

    Args:
        path: A file, new or an earlier one, or a device or a pipe; it gets ASCII.
        append: Keep the lines that are there. What an earlier run did gets a line only if it has
            none of a success; a line that a kill cut off is removed.

    Raises:
        CxrsegError: The file exists and is no earlier one of cxrseg, another run is writing to it,
            or it cannot be written.
    """
    with _stream(path, "--jsonl") as send:
        if send is not None:
            yield lambda record: send(line(record))
            return
    _check(path, "--jsonl", "of cxrseg's JSON Lines", LINE_START)
    with ExitStack() as stack:
        with _file_errors(path, "--jsonl"):
            # Lines go to the system whole and at once, and after those of anybody else.
            file = stack.enter_context(place_of(path).open("ab", buffering=0))
            if not take(file.fileno()):
                remedy = "wait for it, or choose another name with --jsonl"
                raise CxrsegError(path, "another run is writing to it", remedy)
            known = _known(file) if append else set()
            if not append:
                file.truncate(0)

        late: deque[bytes] = deque(maxlen=_MAX_LATE)

        def write() -> None:
            with _file_errors(path, "--jsonl"):
                while late:
                    _append(file, late[0])
                    late.popleft()

        def add(record: Record) -> None:
            if not (record.earlier and record.source in known):
                late.append(line(record))
                write()

        yield add
        # What cannot be written even now has been told by `add`.
        with suppress(CxrsegError):
            write()


def _append(file: io.FileIO, data: bytes) -> None:
    """Append all of the bytes or none.

    Raises:
        OSError: They cannot be written.
    """
    before = file.seek(0, os.SEEK_END)
    try:
        _send(file, data)
    except OSError:
        with suppress(OSError):
            file.truncate(before)
        raise


def _send(file: io.FileIO, data: bytes) -> None:
    """Write all of the bytes, at the pace of whoever takes them.

    Raises:
        OSError: They cannot be written.
    """
    rest = memoryview(data)
    while rest:
        written = file.write(rest)
        if written is None:  # a pipe that somebody else set not to wait
            select.select([], [file], [])
        else:
            rest = rest[written:]


@contextmanager
def _stream(path: Path, option: str) -> Iterator[Callable[[bytes], None] | None]:
    """Give a function that writes to what is no file; None where a file can be written."""
    with ExitStack() as stack:
        with _file_errors(path, option):
            if was_closed(descriptor_of(path)):
                raise OSError(errno.EBADF, "it is closed")
            stream = open_stream(path)
        if stream is None:
            yield None
            return
        stack.enter_context(stream)

        def send(data: bytes) -> None:
            with _file_errors(path, option):
                _send(stream, data)

        yield send


def _known(file: io.FileIO) -> set[str]:
    """Return the sources that have a line of success, and cut off an incomplete last line."""
    known: set[str] = set()
    position = whole = 0
    with open_file(file.name) as reader:
        while part := reader.readline(_MAX_LINE):
            begins, position = position == whole, position + len(part)
            if not part.endswith(b"\n"):  # the last line, or longer than any of ours
                continue
            whole = position
            # Somebody may have edited it.
            with suppress(ValueError, TypeError, LookupError, RecursionError):
                data = json.loads(part) if begins else {}
                if data["status"] != "error":
                    known.add(str(data["source"]))
    if position > whole:
        file.truncate(whole)
    return known


def _check(path: Path, option: str, kind: str, start: bytes) -> None:
    """Refuse, before anything is computed, a path that cannot become the file."""
    remedy = _remedy(option)
    check_place(path, remedy)
    head = b""
    with _file_errors(path, option, "read"), suppress(FileNotFoundError), open_file(path) as file:
        head = file.read(len(start))
    # What a kill cut off at its very beginning is ours, too.
    if not start.startswith(head):
        cause = f"exists and is not {kind}, so it is kept"
        raise CxrsegError(path, cause, f"rename it, or {remedy}")


@contextmanager
def _file_errors(path: Path, option: str, verb: str = "written") -> Iterator[None]:
    """Turn the system's errors into ours."""
    try:
        yield
    except OSError as error:
        cause = f"cannot be {verb} ({error.strerror or error})"
        raise CxrsegError(path, cause, _remedy(option)) from error


def _remedy(option: str) -> str:
    return f"choose another name with {option}"
