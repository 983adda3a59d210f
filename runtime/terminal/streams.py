"""Standard streams that are always there and never fail."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_BUSY_S = 0.01

_closed: set[int] = set()
"""Numbers of the standard streams that were closed when the program started."""


class _Lenient(io.RawIOBase):
    """Passes bytes on to another stream, and drops those that it cannot take.

    Attributes:
        failure: Why bytes were dropped, the first time.
    """

    def __init__(self, stream: TextIO, raw: io.RawIOBase) -> None:
        self._stream = stream  # kept, because it would close what it stands on
        self._raw = raw
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            # None: whoever started the program made the stream non-blocking, and it is full.
            while (count := self._raw.write(data)) is None:
                sleep(_BUSY_S)
        except OSError as error:
            self.failure = self.failure or error
            return memoryview(data).nbytes
        return count


def steady_streams() -> None:
    """See that the standard streams exist, and that writing to them never raises.

    What a command says is not what it is for: a full disk behind its log, a reader that has left,
    or a terminal that was closed must not cost the work. `lost_output` tells about it.

    A stream that is closed (``>&-``, a service, a program without a console) leads nowhere from now
    on. Otherwise the next file opened would get its number, and what libraries write there.
    """
    for number in range(3):
        with suppress(OSError):  # a system without a null device
            _open_if_closed(number)
    sys.stdin = sys.stdin or _nowhere("r")
    sys.stdout = _steady(sys.stdout) if sys.stdout else _nowhere("w")
    sys.stderr = _steady(sys.stderr) if sys.stderr else _nowhere("w")


def lost_output() -> OSError | None:
    """Return why a part of standard output was lost; None if nothing was, as far as is known."""
    failure = getattr(_raw_of(sys.stdout), "failure", None)
    return failure if isinstance(failure, OSError) else None


def was_closed(descriptor: int | None) -> bool:
    """Tell whether a standard stream was closed at the start, so that it leads nowhere."""
    return descriptor in _closed


def _open_if_closed(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        _closed.add(number)
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != number:
            os.dup2(nowhere, number)
            os.close(nowhere)


def _nowhere(mode: Literal["r", "w"]) -> TextIO:
    return Path(os.devnull).open(mode, encoding="utf-8", errors="backslashreplace")


def _steady(stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    # A file name that the terminal's encoding lacks must not end the run.
    stream.reconfigure(errors="backslashreplace")
    raw = _raw_of(stream)
    if raw is None or isinstance(raw, _Lenient):
        return stream
    stream.flush()
    # Line by line, too, where Python was told to have no buffer.
    lines = stream.line_buffering or stream.write_through
    return io.TextIOWrapper(
        io.BufferedWriter(_Lenient(stream, raw)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=lines,
    )


def _raw_of(stream: TextIO) -> io.RawIOBase | None:
    """Return what writes a stream's bytes to the system; None where nothing does."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return raw if isinstance(raw, io.RawIOBase) else None
