"""Finding X-rays in folders, folders of studies and DICOMDIR media."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.files.own_files import is_our_image_name
from cxrseg.runtime.readers.dicom.dicomdir import is_dicomdir, list_dicomdir
from cxrseg.runtime.readers.reading import SUFFIXES, is_dicom_file


@dataclass(frozen=True)
class ImageFile:
    """An image that an input stands for.

    Attributes:
        path: The image file.
        subfolder: Its folder relative to the input, ``.`` if it is the input itself.
    """

    path: Path
    subfolder: Path = Path()


def scan(path: str | os.PathLike[str]) -> list[ImageFile | CxrsegError]:
    """Return the images that one input stands for.

    Args:
        path: A file, taken as it is whether or not it exists; a DICOMDIR, which stands for the
            images that it lists; or a folder, which is walked with the folders in it for files
            with the suffix of an image, and DICOM files of any name.

    Returns:
        Images, each folder's sorted by name, and errors for what cannot be searched.
    """
    path = Path(path)
    if _is_folder(path):
        images = list_images(path)
        if images:
            return images
        remedy = f"expected files ending in {', '.join(sorted(SUFFIXES))}, or DICOM files"
        return [CxrsegError(path, "the folder holds no images", remedy)]
    if is_dicomdir(path) and path.exists():
        return _scan_dicomdir(path)
    return [ImageFile(path)]


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Replace folders and DICOMDIR files by the images in them.

    Args:
        paths: As `scan` takes them. Hidden files and cxrseg's own output images are left out of a
            folder's listing.

    Returns:
        Files in the order given.

    Raises:
        CxrsegError: A folder or DICOMDIR cannot be read or holds no images.
    """
    images: list[Path] = []
    for path in paths:
        for image in scan(path):
            if isinstance(image, CxrsegError):
                raise image
            images.append(image.path)
    return images


def list_images(folder: Path) -> list[ImageFile | CxrsegError]:
    """Return the images in a folder and those in it, as `scan` does; none is no error."""
    return list(_walk(folder))


def is_image(path: Path) -> bool:
    """Tell whether `list_images` gives this file, by its name or its head.

    Hidden files, cxrseg's own images and DICOMDIR files it does not give.
    """
    if path.name.startswith(".") or is_our_image_name(path.name) or is_dicomdir(path):
        return False
    return (path.suffix.lower() in SUFFIXES or is_dicom_file(path)) and path.is_file()


def _walk(folder: Path) -> Iterator[ImageFile | CxrsegError]:
    """Walk a folder and those in it, in the order of names, files first.

    Hidden folders are left out. Links to folders are not followed.

    Yields:
        An image, or why a folder cannot be read.
    """
    failures: list[OSError] = []
    for home, folders, names in os.walk(folder, onerror=failures.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(home, name)
            if is_image(path):
                yield ImageFile(path, path.parent.relative_to(folder))
    for error in failures:
        cause = f"the folder cannot be read ({error.strerror})"
        yield CxrsegError(error.filename or folder, cause, "check the permissions")


def _scan_dicomdir(path: Path) -> list[ImageFile | CxrsegError]:
    try:
        images = list_dicomdir(path)
    except CxrsegError as error:
        return [error]
    return [
        image
        if isinstance(image, CxrsegError)
        else ImageFile(image, image.parent.relative_to(path.parent))
        for image in images
    ]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    # A name too long, a parent that may not be entered: reading the file will fail with the reason.
    except OSError:
        return False
