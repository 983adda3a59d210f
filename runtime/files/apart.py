"""Whether two paths lead to one place, so that one file would replace the other."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.files.opening import descriptor_of


def place_key(path: str | os.PathLike[str]) -> str:
    """Return one text per place of a file, however it is spelled; nothing need lie there.

    Links are followed, ``-`` and ``/dev/stdout`` to where standard output goes. Letter case and the
    ways to encode an accent do not count: they do not for the drives of Windows and macOS.
    """
    path = Path(path)
    with suppress(OSError):  # a loop of links
        descriptor = descriptor_of(path)
        if descriptor is not None:
            path = Path(f"/dev/fd/{descriptor}")
    return _folded(os.path.realpath(path))


def leads_to(path: Path, key: str) -> bool:
    """Tell whether a path leads to the place with this `place_key`; fast where it does not."""
    return (key.endswith(_folded(path.name)) or path.is_symlink()) and place_key(path) == key


def is_in(key: str, folder: str) -> bool:
    """Tell whether a place is a folder or anywhere in it; both as their `place_key`."""
    return Path(key).is_relative_to(folder)


def require_apart(path: Path, inputs: Iterable[Path], remedy: str) -> None:
    """Refuse a file that would replace what it is made from.

    Args:
        path: Where the file is meant to go.
        inputs: Files that are read.
        remedy: What to do instead.

    Raises:
        CxrsegError: It is one of them.
    """
    key = place_key(path)
    for source in inputs:
        if leads_to(source, key):
            raise CxrsegError(path, f"would replace an input, {source}", remedy)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text.casefold())
