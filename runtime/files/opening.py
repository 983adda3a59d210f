"""What may be opened, and what replaced: regular files alone.

To open a pipe can take forever, a device may never end, and a file in the place of one would break
the system. Whatever somebody named, or put into a folder, is opened by `open_file` and replaced at
`place_of`. Text that is written in one go may also leave by a device or a pipe, through
`open_stream`.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from io import BufferedReader, FileIO
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a disk",
    stat.S_IFSOCK: "a socket",
}

# Nothing is waited for, and no terminal takes over the process. Windows lacks both flags, and has
# no such files in its folders.
_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)

_MAX_LINKS = 40

STANDARD_OUTPUT = Path("-")
"""How standard output is named where a table goes there."""


def open_file(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a regular file, or a link to one, for reading; without waiting for anything.

    Raises:
        OSError: As `open` does, and where something else lies there, which `strerror` names.
    """
    # Before it is opened, too: to open a tape rewinds it.
    _require_regular(Path(path).stat())
    file = os.fdopen(os.open(path, os.O_RDONLY | _AT_ONCE), "rb")
    try:
        _require_regular(os.fstat(file.fileno()))
    except OSError:
        file.close()
        raise
    return file


def read_file(path: str | os.PathLike[str], limit: int) -> bytes:
    """Return what a regular file holds.

    Args:
        path: The file, or a link to it.
        limit: Most bytes that it may have.

    Raises:
        OSError: As `open_file`, and where the file is larger (``EFBIG``).
    """
    with open_file(path) as file:
        # As large as it is, not as it may be; it may be growing, too.
        data = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit:,} bytes")
    return data


def place_of(path: str | os.PathLike[str]) -> Path:
    """Return the path that a new file may take: this one, or where it leads as a link.

    Nothing may lie there, or a regular file, which is replaced. The link stays a link.

    Raises:
        OSError: Something else lies there, which `strerror` names; or the path cannot be followed.
    """
    path = Path(path)
    if descriptor_of(path) is not None:
        raise OSError(errno.EINVAL, "it stands for an open file, not for a place")
    try:
        _require_regular(path.stat())
    except FileNotFoundError as error:
        # To follow it could make a file that nobody expects, anywhere.
        if path.is_symlink():
            raise OSError(errno.EINVAL, "it is a link to nothing") from error
        return path
    return path.resolve() if path.is_symlink() else path


def open_stream(path: str | os.PathLike[str]) -> FileIO | None:
    """Open for writing what is no file but takes text: a device, a pipe, or an open file.

    Args:
        path: For example ``-`` (standard output), ``/dev/fd/3`` or a named pipe, or a link to one.

    Returns:
        The stream, unbuffered; None where a file may be written instead, at `place_of`.

    Raises:
        OSError: It cannot be opened, or nobody reads the pipe (``ENXIO``).
    """
    path = Path(path)
    descriptor = descriptor_of(path)
    if descriptor is not None:
        # Not opened anew: what is written through other copies of it must not be overwritten.
        os.write(descriptor, b"")  # fails where it was opened for reading alone
        return os.fdopen(os.dup(descriptor), "wb", buffering=0)
    try:
        if not _is_stream(path.stat()):
            return None
        opened = os.open(path, os.O_WRONLY | _AT_ONCE)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.ENXIO or not path.is_fifo():
            raise
        raise OSError(errno.ENXIO, "nobody reads this pipe") from error
    stream = os.fdopen(opened, "wb", buffering=0)
    if not _is_stream(os.fstat(opened)):
        stream.close()
        raise OSError(errno.EINVAL, "it has been replaced")
    # A slow reader is waited for.
    os.set_blocking(opened, True)
    return stream


def kind_of(path: Path) -> str:
    """Return what lies at a path, with its article: ``a file``, ``a folder``, ``a pipe``.

    Raises:
        OSError: It may not be looked at, or nothing lies there.
    """
    if path.is_symlink() and not path.exists():
        return "a link to nothing"
    mode = path.stat().st_mode
    return "a file" if stat.S_ISREG(mode) else _kind(mode)


def is_standard_output(path: str | os.PathLike[str]) -> bool:
    """Tell whether what is written to a path comes out with what the program prints."""
    path = Path(path)
    try:
        return path == STANDARD_OUTPUT or os.path.samestat(path.stat(), os.fstat(1))
    except OSError:
        return False


def _require_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, f"it is {_kind(status.st_mode)}, not a regular file")


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "something else")


def _is_stream(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) or stat.S_ISFIFO(status.st_mode)


def descriptor_of(path: Path) -> int | None:
    """Return the number of the open file of this process that a path like /dev/stdout stands for.

    Such a path leads through a link in ``/proc/self/fd`` that only looks like one to a file.

    Raises:
        OSError: The links go round in a loop, or cannot be read.
    """
    if path == STANDARD_OUTPUT:
        return 1
    for _ in range(_MAX_LINKS):
        if re.fullmatch("[0-9]{1,9}", path.name):
            folder = os.path.realpath(path.parent)
            if folder in ("/dev/fd", f"/proc/{os.getpid()}/fd"):
                return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
