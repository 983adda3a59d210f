"""Reading one X-ray: the reader is chosen by what the file holds, not by its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cxrseg.runtime.core.errors import CxrsegError, unreadable
from cxrseg.runtime.files.opening import open_file

if TYPE_CHECKING:
    from cxrseg.runtime.core.radiograph import Radiograph
    from cxrseg.runtime.readers.raster.picture import Picture

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
        size: Reads (height, width) alone; raises whatever a damaged file leads to.
    """

    title: str
    suffixes: tuple[str, ...]
    sniff: Callable[[bytes], bool]
    read: Callable[[Path], Radiograph]
    size: Callable[[Path], tuple[int, int]]


# Value representations of what may come first in a file (PS3.5 6.2).
_FIRST_VRS = (b"UL", b"UI", b"OB", b"CS", b"SH", b"LO", b"DA", b"TM", b"AE", b"ST", b"PN", b"SQ")


def _is_dicom(head: bytes) -> bool:
    return head[128:132] == b"DICM" or _is_bare_dicom(head)


def _is_bare_dicom(head: bytes) -> bool:
    """Tell a data set without preamble by its first element: group 0002 or 0008, little endian."""
    if len(head) < 8 or head[:2] not in (b"\x02\0", b"\x08\0"):
        return False
    element = int.from_bytes(head[2:4], "little")
    length = int.from_bytes(head[4:8], "little")
    explicit = head[4:6] in _FIRST_VRS
    return element <= 0x2112 and (explicit or (length <= 256 and length % 2 == 0))


def _read_dicom(path: Path) -> Radiograph:
    try:
        from cxrseg.runtime.readers.dicom.reader import read_dicom
    except ImportError as error:
        cause = f"reading DICOM needs a library that cannot be loaded ({error})"
        raise CxrsegError(path, cause, "install cxrseg again") from error
    return read_dicom(path)


def _size_of_dicom(path: Path) -> tuple[int, int]:
    from cxrseg.runtime.readers.dicom.reader import dicom_size

    return dicom_size(path)


def _is_raster(head: bytes) -> bool:
    return head.startswith(
        (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    )


def _read_raster(path: Path) -> Radiograph:
    from cxrseg.runtime.readers.raster import read_raster

    return read_raster(path)


def _size_of_raster(path: Path) -> tuple[int, int]:
    from cxrseg.runtime.readers.raster.reader import raster_size

    return raster_size(path)


READERS: tuple[Reader, ...] = (
    Reader("DICOM", (".dcm", ".dicom", ".ima"), _is_dicom, _read_dicom, _size_of_dicom),
    Reader(
        "PNG, JPEG, TIFF or BMP",
        (
            *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi"),
            *(".tif", ".tiff", ".btf", ".tf8", ".bmp", ".dib"),
        ),
        _is_raster,
        _read_raster,
        _size_of_raster,
    ),
)
"""The readers; the first whose `sniff` agrees is taken."""

SUFFIXES = frozenset(suffix for reader in READERS for suffix in reader.suffixes)
"""File name suffixes of images, lower case with the dot."""


def is_image_file(path: Path) -> bool:
    """Tell by its content whether a file without the suffix of an image is one.

    Where it has no suffix at all it may be of any format; else it counts if it is DICOM, whose
    names often end with a number. Any text may begin with ``BM``, so of a BMP more is looked at.

    Raises:
        OSError: The file may not be looked at.
    """
    if not path.is_file():
        return False
    try:
        head = _head_of(path)
    except CxrsegError:
        return False
    if _is_dicom(head):
        return True
    named = path.suffix and not path.suffix[1:].isdigit()
    return not named and _is_raster(head) and (head[:2] != b"BM" or head[6:10] == bytes(4))


def _head_of(path: Path) -> bytes:
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise CxrsegError(path, "the file is empty", "export or copy the image again")
            if size > MAX_BYTES:
                limit = f"at most {MAX_BYTES >> 20} MiB are accepted"
                raise CxrsegError(path, f"the file is too large ({size >> 20} MiB)", limit)
            return file.read(_HEAD)
    except FileNotFoundError as error:
        raise CxrsegError(path, "no such file", "check the name") from error
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def read(path: str | os.PathLike[str]) -> Radiograph:
    """Read an X-ray.

    Args:
        path: A DICOM, PNG, JPEG, TIFF or BMP file.

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
    raise CxrsegError(path, cause, "give a DICOM, PNG, JPEG, TIFF or BMP file")


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read a picture that is no X-ray, such as a mask, with its colors.

    Raises:
        CxrsegError: The file is missing, empty, too large, damaged, or no PNG, JPEG, TIFF or BMP.
    """
    path = Path(path)
    head = _head_of(path)
    if not _is_raster(head):
        kind = "DICOM" if _is_dicom(head) else "no picture that cxrseg can read"
        raise CxrsegError(path, f"is {kind}", "give a PNG, TIFF, BMP or JPEG file")
    from cxrseg.runtime.readers.raster import read_picture as read_raster_picture

    return read_raster_picture(path)


def count_pixels(path: Path) -> int:
    """Return how many pixels an image has by its header, 0 where that cannot be read.

    Reading the image tells why. Nothing is decoded.
    """
    try:
        head = _head_of(path)
        height, width = next(reader.size(path) for reader in READERS if reader.sniff(head))
    # On damaged files parsers raise nearly any type.
    except Exception:
        return 0
    return max(0, height * width)


def fingerprint(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of an image file, lower-case hex.

    Raises:
        CxrsegError: `read` would refuse the file before it decodes it.
    """
    # Imported here: `cxrseg-run` begins to load the model first.
    from cxrseg.runtime.files.digest import sha256_of

    path = Path(path)
    _head_of(path)
    try:
        return sha256_of(path)
    except OSError as error:
        raise unreadable(path, error) from error
