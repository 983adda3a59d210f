"""DICOMDIR: the file that lists the images of a medium (PS3.10 8.6)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from cxrseg.runtime.core.errors import CxrsegError, unreadable

DICOMDIR = "DICOMDIR"
"""Its name."""

MAX_ELEMENTS = 2_000_000
"""Most elements of a listing; an image has about twenty."""

_RECORDS, _TYPE, _FILE_ID = 0x00041220, 0x00041430, 0x00041500


def is_dicomdir(path: Path) -> bool:
    """Tell by its name whether a file is a DICOMDIR."""
    return _file_id(path.name) == DICOMDIR


def _file_id(name: str) -> str:
    """Return the component of a DICOM File ID that a file name stands for.

    File IDs are upper case without a dot (PS3.10 8.2, 8.5). Where a CD is mounted, or after it
    was copied, they may be lower case, end with a dot, or with the version number of ISO 9660.
    """
    return re.sub(r"\.?(;[0-9]+)?$", "", name).upper()


def list_dicomdir(path: Path) -> list[Path | CxrsegError]:
    """Return the images that a DICOMDIR lists (PS3.3 annex F).

    Args:
        path: The DICOMDIR.

    Returns:
        One entry per image, in the order listed; an error for each that is not below the
        DICOMDIR's folder.

    Raises:
        CxrsegError: It is damaged or lists no images.
    """
    # Imported here: a folder of PNG files needs none of it.
    from cxrseg.runtime.readers.dicom.elements import TooManyError
    from cxrseg.runtime.readers.dicom.source import InflatedError

    try:
        names = _Names()
        images = [_referenced(path, parts, names) for parts in _file_ids(path)]
    except OSError as error:
        raise unreadable(path, error) from error
    except (InflatedError, TooManyError) as error:
        cause = f"the DICOMDIR is damaged or too large ({error})"
        raise CxrsegError(path, cause, "give the folder instead") from error
    if not images:
        raise CxrsegError(path, "the DICOMDIR lists no images", "give the folder instead")
    return images


def _file_ids(path: Path) -> Iterator[list[str]]:
    """Yield the components of the File ID of each image that is listed."""
    from cxrseg.runtime.readers.dicom.elements import Elements
    from cxrseg.runtime.readers.dicom.source import open_data_set

    with open_data_set(path) as source:
        elements = Elements(source.file, source.size, source.encoding, {_RECORDS}, MAX_ELEMENTS)
        for sequence in elements.walk(source.start, _RECORDS):
            for record in elements.items(sequence) if sequence.tag == _RECORDS else ():
                told = {x.tag: elements.value(x) for x in record if x.tag in (_TYPE, _FILE_ID)}
                if told.get(_TYPE, b"").strip(b" \0") == b"IMAGE" and _FILE_ID in told:
                    yield [part.strip(" \0") for part in _text(told[_FILE_ID]).split("\\")]


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


class _Names:
    """Finds files by File ID, however the medium's file system spells them."""

    def __init__(self) -> None:
        self._listed: dict[Path, dict[str, str]] = {}

    def find(self, folder: Path, parts: list[str]) -> Path:
        """Return the file below `folder` with this File ID, as listed where there is none."""
        path = folder
        for part in parts:
            as_listed = path / part
            if as_listed.exists():
                path = as_listed
            else:
                path = path / self._names_in(path).get(_file_id(part), part)
        return path

    def _names_in(self, folder: Path) -> dict[str, str]:
        if folder not in self._listed:
            try:
                names = sorted((path.name for path in folder.iterdir()), reverse=True)
            # Missing, or may not be entered: reading the image will fail with the reason.
            except OSError:
                names = []
            self._listed[folder] = {_file_id(name): name for name in names}
        return self._listed[folder]


def _referenced(dicomdir: Path, parts: list[str], names: _Names) -> Path | CxrsegError:
    home = dicomdir.parent
    # What is one name here may be a path on another system.
    plain = all(
        part not in ("", ".", "..")
        and PurePosixPath(part).name == part
        and PureWindowsPath(part).name == part
        for part in parts
    )
    path = home
    try:
        path = names.find(home, parts) if plain else home
        inside = plain and path.resolve().is_relative_to(home.resolve())
    except (OSError, RuntimeError, ValueError):
        inside = False
    if not inside:
        cause = f"lists a file outside its folder ({'/'.join(parts)[:100]})"
        return CxrsegError(dicomdir, cause, "give the image itself")
    return path
