"""Reading X-rays: the reader is chosen by what a file holds, not by its name."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cxrseg.runtime.errors import CxrsegError
from cxrseg.runtime.outputs import LUNGS, OVERLAY

if TYPE_CHECKING:
    from cxrseg.runtime.radiograph import Radiograph

MAX_BYTES = 1 << 30
"""Largest file accepted, in bytes."""

_HEAD = 132


@dataclass(frozen=True)
class Reader:
    """One file format family.

    Attributes:
        title: Formats, for people.
        suffixes: File name suffixes, lower case with the dot, that a folder is searched for.
        sniff: Tells from a file's first 132 bytes whether the reader is responsible.
        read: Reads a file of this family; raises CxrsegError.
    """

    title: str
    suffixes: tuple[str, ...]
    sniff: Callable[[bytes], bool]
    read: Callable[[Path], Radiograph]


def _is_dicom(head: bytes) -> bool:
    return head[128:132] == b"DICM"


def _read_dicom(path: Path) -> Radiograph:
    raise CxrsegError(
        path,
        "DICOM files are not supported by this version of cxrseg yet",
        "export the X-ray as PNG or TIFF",
    )


def _is_raster(head: bytes) -> bool:
    return head.startswith(
        (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    )


def _read_raster(path: Path) -> Radiograph:
    from cxrseg.runtime.readers.raster import read_raster

    return read_raster(path)


READERS: tuple[Reader, ...] = (
    Reader("DICOM", (), _is_dicom, _read_dicom),
    Reader(
        "PNG, JPEG, TIFF or BMP",
        (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"),
        _is_raster,
        _read_raster,
    ),
)
"""The readers; the first whose `sniff` agrees is taken."""


def _head_of(path: Path) -> bytes:
    remedy = "check the name and the permissions"
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise CxrsegError(path, "is a folder, not an image", "name the image itself")
        # A pipe or a device could block or never end.
        if not stat.S_ISREG(status.st_mode):
            raise CxrsegError(path, "is not a regular file", "name an image file")
        if status.st_size == 0:
            raise CxrsegError(path, "the file is empty", "export or copy the image again")
        if status.st_size > MAX_BYTES:
            limit = f"at most {MAX_BYTES >> 20} MiB are accepted"
            raise CxrsegError(path, f"the file is too large ({status.st_size >> 20} MiB)", limit)
        with path.open("rb") as file:
            return file.read(_HEAD)
    except FileNotFoundError as error:
        raise CxrsegError(path, "no such file", "check the name") from error
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise CxrsegError(path, f"cannot be read ({cause})", remedy) from error


def read(path: str | os.PathLike[str]) -> Radiograph:
    """Read an X-ray.

    Args:
        path: A PNG, JPEG, TIFF or BMP file.

    Returns:
        The radiograph, float32 [H, W] in [0, 1] at its native size.

    Raises:
        CxrsegError: The file is missing, empty, too large, damaged, or no image of these formats.
    """
    path = Path(path)
    head = _head_of(path)
    for reader in READERS:
        if reader.sniff(head):
            return reader.read(path)
    cause = "is not an image that cxrseg can read"
    raise CxrsegError(path, cause, "give a PNG, JPEG, TIFF or BMP file")


def _listing(folder: Path) -> list[Path]:
    suffixes = {suffix for reader in READERS for suffix in reader.suffixes}
    try:
        found = sorted(
            entry
            for entry in folder.iterdir()
            if entry.suffix.lower() in suffixes
            and not entry.name.startswith(".")
            and not entry.name.endswith((LUNGS, OVERLAY))
            and entry.is_file()
        )
    except OSError as error:
        cause = f"the folder cannot be read ({error.strerror})"
        raise CxrsegError(folder, cause, "check the permissions") from error
    if not found:
        remedy = f"expected files ending in {', '.join(sorted(suffixes))}"
        raise CxrsegError(folder, "the folder holds no images", remedy)
    return found


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Replace folders by the images in them.

    Args:
        paths: Files, kept as they are whether or not they exist, and folders, searched by file
            name suffix, not recursively. Hidden files and cxrseg's own output images are left out
            of a folder's listing.

    Returns:
        Files in the order given, each folder's sorted by name.

    Raises:
        CxrsegError: A folder cannot be read or holds no images.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        found += _listing(path) if _is_folder(path) else [path]
    return found


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    # A name too long, a parent that may not be entered: reading the file will tell.
    except OSError:
        return False
