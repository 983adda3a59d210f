"""Writing files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from time import time

from cxrseg.runtime.core.errors import CxrsegError

_REMEDY = "choose a folder that you may write to, with -o"

_START, _END = ".cxrseg-", ".tmp"
_STALE_S = 10.0


def _temporary(path: Path) -> Path:
    # In the same folder, because a rename is atomic within one file system only.
    return path.with_name(f"{_START}{os.urandom(8).hex()}{_END}")


def _unwritable(path: Path, error: OSError) -> CxrsegError:
    return CxrsegError(path, f"cannot be written ({error.strerror or error})", _REMEDY)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`, which it becomes at the end.

    When the block fails the temporary file is removed and `path` stays as it was.

    Raises:
        CxrsegError: The file cannot be written or put in place; an OSError of the block counts
            as such.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        _remove([temporary])


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files, all of them or none.

    Every content is on disk under a temporary name before the first file gets its own.

    Args:
        contents: Path -> what it shall hold. Existing files are replaced.

    Raises:
        CxrsegError: One of them cannot be written; none is left behind.
    """
    temporaries: dict[Path, Path] = {}
    placed: list[Path] = []
    path = Path()
    try:
        for path, data in contents.items():
            if path.is_dir():
                raise CxrsegError(path, "a folder has the name of an output file", _REMEDY)
            temporary = _temporary(path)
            temporaries[path] = temporary
            with temporary.open("xb") as file:
                file.write(data)
        for path, temporary in temporaries.items():
            temporary.replace(path)
            placed.append(path)
    except OSError as error:
        _remove(placed)
        raise _unwritable(path, error) from error
    finally:
        _remove(temporaries.values())


def prepare_folder(folder: Path) -> None:
    """Create the output folder where there is none.

    Raises:
        CxrsegError: It cannot be created or is a file.
    """
    remedy = "choose another folder with -o"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise CxrsegError(folder, "is a file, not a folder", remedy) from error
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
