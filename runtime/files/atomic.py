"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from time import time
from typing import BinaryIO

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.files.locks import alone_in
from cxrseg.runtime.files.opening import kind_of, place_of

_REMEDY = "choose a folder that you may write to, with -o"

_START, _END = ".cxrseg-", ".tmp"
_STALE_S = 10.0

_FOR_NOBODY_ELSE = 0o600
_AS_USUAL = 0o666


def _temporary(path: Path) -> Path:
    # In the same folder, because a rename is atomic within one file system only.
    return path.with_name(f"{_START}{os.urandom(8).hex()}{_END}")


def _unwritable(path: Path, error: OSError, remedy: str = _REMEDY) -> CxrsegError:
    return CxrsegError(path, f"cannot be written ({error.strerror or error})", remedy)


@contextmanager
def atomic_write(path: str | os.PathLike[str], remedy: str = _REMEDY) -> Iterator[Path]:
    """Give a temporary file in the folder of `path`, which it becomes at the end.

    It is on the disk before it gets the name, so that not even a power failure leaves a part of
    it. When the block fails the temporary file is removed and `path` stays as it was. A link is
    followed, and a file that is replaced hands on its permissions.

    Args:
        path: The file.
        remedy: What to do where it cannot be written.

    Raises:
        CxrsegError: The file cannot be written or put in place, or something lies there that is no
            file; an OSError of the block counts as such.
    """
    path = Path(path)
    try:
        place = place_of(path)
    except OSError as error:
        raise _unwritable(path, error, remedy) from error
    temporary = _temporary(place)
    try:
        _create(temporary, place).close()
        yield temporary
        put_in_place({place: temporary})
    except OSError as error:
        raise _unwritable(path, error, remedy) from error
    finally:
        _remove([temporary])


def put_in_place(files: Mapping[Path, Path]) -> None:
    """Give finished files their names, once they are on the disk; none where one cannot get it.

    They get the permissions of the files that they replace. The last vouches for the others, as in
    `write_together`.

    Args:
        files: Place, as `place_of` returns it -> file, in the same file system.

    Raises:
        OSError: It cannot be done.
    """
    for place, temporary in files.items():
        with temporary.open("r+b") as file:
            _take_over(file, place)
            os.fsync(file.fileno())
    _rename_together(files)
    _sync(place.parent for place in files)


def write_together(contents: Mapping[Path, bytes], durable: bool = False) -> None:
    """Write several files that belong together, all of them or none.

    The last vouches for the others: an earlier one is removed before the first of them is replaced,
    and the new one comes when all are there. So a kill at any time leaves none that vouches for
    files of another run. Every content is on disk under a temporary name before that. Links are
    followed, and files that are replaced hand on their permissions.

    Args:
        contents: Path -> what it shall hold.
        durable: Wait until all is on the disk, so that a power failure changes nothing any more.

    Raises:
        CxrsegError: One of them cannot be written, or something lies there that is no file; no new
            file is left behind.
    """
    temporaries: dict[Path, Path] = {}
    path = Path()
    try:
        for path, data in contents.items():
            place = place_of(path)
            if place in temporaries:
                raise OSError(errno.EINVAL, "it is a link to another file of the same result")
            temporary = _temporary(place)
            temporaries[place] = temporary
            with _create(temporary, place) as file:
                file.write(data)
                _take_over(file, place)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
        _rename_together(temporaries)
        if durable:
            _sync(place.parent for place in temporaries)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        _remove(temporaries.values())


def _rename_together(files: Mapping[Path, Path]) -> None:
    """Give files their names, the last one last; none where one fails."""
    *others, voucher = files
    placed: list[Path] = []
    with alone_in(voucher.parent):
        try:
            if others:
                voucher.unlink(missing_ok=True)
            for place in (*others, voucher):
                files[place].replace(place)
                placed.append(place)
        except OSError:
            _remove(placed)
            raise


def _create(temporary: Path, place: Path) -> BinaryIO:
    """Create a file that shows nobody what the one in its place keeps from them."""
    mode = _FOR_NOBODY_ELSE if place.exists() else _AS_USUAL
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(temporary, flags, mode), "wb")


def _take_over(file: BinaryIO, place: Path) -> None:
    """Give a file the owner, the group and the permissions of the one that it will replace."""
    try:
        old = place.stat()
    except FileNotFoundError:
        return
    mode = old.st_mode & (stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO)
    if hasattr(os, "fchown"):
        for ids in ((-1, old.st_gid), (old.st_uid, -1)):
            # Only root may give files away.
            with suppress(OSError):
                os.fchown(file.fileno(), *ids)
        if os.fstat(file.fileno()).st_gid != old.st_gid:
            mode &= ~stat.S_IRWXG  # they were another group's
        os.fchmod(file.fileno(), mode)


def _sync(folders: Iterable[Path]) -> None:
    """See that what folders list is on the disk."""
    for folder in {*folders}:
        # Windows opens no folders, and some network drives do not know the request.
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def check_place(path: Path, remedy: str = _REMEDY) -> Path:
    """Refuse, before the work, a path where no file could be put after it.

    Args:
        path: Where the file is meant to go.
        remedy: What to do instead.

    Returns:
        As `place_of`.

    Raises:
        CxrsegError: Its folder is missing or takes no files, or something lies there that is no
            file.
    """
    try:
        place = place_of(path)
        _try_to_create(place)
        return place
    except OSError as error:
        why = error.strerror or error
        if not path.parent.is_dir():
            why = f"there is no folder {path.parent}"
        raise CxrsegError(path, f"cannot be written ({why})", remedy) from error


def prepare_output(folder: Path) -> None:
    """Create the output folder where there is none, and see, before the work, that it takes files.

    Raises:
        CxrsegError: It cannot be created, is a file, or takes none.
    """
    prepare_folder(folder)
    try:
        _try_to_create(folder / _START)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _try_to_create(place: Path) -> None:
    """Create a file beside a place and remove it: nothing else tells for sure whether that works.

    Raises:
        OSError: It does not.
    """
    temporary = _temporary(place)
    _create(temporary, place).close()
    temporary.unlink()


def prepare_folder(folder: Path, durable: bool = False) -> None:
    """Create the output folder where there is none.

    Args:
        folder: The folder.
        durable: As `write_together` takes it.

    Raises:
        CxrsegError: It cannot be created or is a file.
    """
    remedy = "choose another folder with -o"
    try:
        new = [each for each in (folder, *folder.parents) if durable and not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        _sync(each.parent for each in new)
    except FileExistsError as error:
        raise CxrsegError(folder, f"is {kind_of(folder)}, not a folder", remedy) from error
    except OSError as error:
        cause = f"the output folder cannot be created ({error.strerror})"
        raise CxrsegError(folder, cause, remedy) from error


def remove_stale(folders: Iterable[Path]) -> None:
    """Remove the temporary files that a killed process left in these folders.

    Whatever is younger than ten seconds may be the work of a process that runs, and stays.
    """
    for folder in folders:
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(_START) and entry.name.endswith(_END):
                    with suppress(OSError):
                        if time() - entry.stat().st_mtime > _STALE_S:
                            _remove([Path(entry.path)])


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        # Clean-up must not hide the failure that led to it.
        with suppress(OSError):
            path.unlink()
