"""Finding X-rays in folders, folders of studies and DICOMDIR media."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.own_files import IMAGE_ENDS

DICOMDIR = "DICOMDIR"
"""Name of the file that lists a medium's images (PS3.10 8.6)."""


@dataclass(frozen=True)
class Found:
    """An image that an input stands for.

    Attributes:
        path: The image file.
        below: Its folder relative to the input, ``.`` if it is the input itself.
    """

    path: Path
    below: Path = Path()


def list_folder(
    folder: Path, suffixes: Iterable[str], sniff: Callable[[Path], bool]
) -> Iterator[Found | CxrsegError]:
    """Walk a folder and those in it, in the order of names, files first.

    Hidden files and folders, cxrseg's own images and DICOMDIR files are left out. Links to
    folders are not followed.

    Args:
        folder: Where to begin.
        suffixes: File name suffixes of images, lower case with the dot.
        sniff: Tells by its content whether a file without such a suffix is an image.

    Yields:
        An image, or why a folder cannot be read.
    """
    known = set(suffixes)
    failures: list[OSError] = []
    for home, folders, names in os.walk(folder, onerror=failures.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(home, name)
            if is_listed(path, known, sniff):
                yield Found(path, path.parent.relative_to(folder))
    for error in failures:
        cause = f"the folder cannot be read ({error.strerror})"
        yield CxrsegError(error.filename or folder, cause, "check the permissions")


def is_listed(path: Path, suffixes: Container[str], sniff: Callable[[Path], bool]) -> bool:
    """Tell whether a folder gives a file of its own as an image.

    Args:
        path: The file.
        suffixes: As `list_folder` takes them.
        sniff: As `list_folder` takes it.
    """
    if path.name.startswith(".") or path.name.endswith(IMAGE_ENDS) or is_dicomdir(path):
        return False
    return (path.suffix.lower() in suffixes or sniff(path)) and path.is_file()


def is_dicomdir(path: Path) -> bool:
    """Tell by its name whether a file is a DICOMDIR."""
    return _file_id(path.name) == DICOMDIR


def _file_id(name: str) -> str:
    """Return the component of a DICOM File ID that a file name stands for.

    File IDs are upper case without a dot (PS3.10 8.2, 8.5). Where a CD is mounted, or after it
    was copied, they may be lower case, end with a dot, or with the version number of ISO 9660.
    """
    return re.sub(r"\.?(;[0-9]+)?$", "", name).upper()


def list_dicomdir(path: Path) -> list[Found | CxrsegError]:
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
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(path, specific_tags=["DirectoryRecordSequence"])
            files = [
                _components(record.ReferencedFileID)
                for record in dataset.get("DirectoryRecordSequence") or ()
                if record.get("DirectoryRecordType") == "IMAGE" and "ReferencedFileID" in record
            ]
            names = _Names()
            found = [_referenced(path, parts, names) for parts in files]
        except OSError as error:
            cause = f"cannot be read ({error.strerror or error})"
            raise CxrsegError(path, cause, "check the name and the permissions") from error
        # On damaged files pydicom raises nearly any type.
        except Exception as error:
            cause = f"the DICOMDIR is damaged ({str(error) or type(error).__name__})"
            raise CxrsegError(path, cause, "give the folder instead") from error
    if not found:
        raise CxrsegError(path, "the DICOMDIR lists no images", "give the folder instead")
    return found


def _components(value: object) -> list[str]:
    return [value] if isinstance(value, str) else [str(part) for part in value]  # type: ignore[attr-defined]


class _Names:
    """Finds files by File ID, however the medium's file system spells them."""

    def __init__(self) -> None:
        self._listed: dict[Path, dict[str, str]] = {}

    def find(self, folder: Path, parts: list[str]) -> Path:
        """Return the file below `folder` with this File ID, as told where there is none."""
        path = folder
        for part in parts:
            told = path / part
            path = told if told.exists() else path / self._in(path).get(_file_id(part), part)
        return path

    def _in(self, folder: Path) -> dict[str, str]:
        if folder not in self._listed:
            try:
                names = sorted((path.name for path in folder.iterdir()), reverse=True)
            # Missing, or may not be entered: reading the image will tell.
            except OSError:
                names = []
            self._listed[folder] = {_file_id(name): name for name in names}
        return self._listed[folder]


def _referenced(dicomdir: Path, parts: list[str], names: _Names) -> Found | CxrsegError:
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
    return Found(path, path.relative_to(home).parent)
