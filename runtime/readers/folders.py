"""Finding X-rays in folders, folders of studies and DICOMDIR media."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.files.own_files import is_our_image, is_ours
from cxrseg.runtime.readers.dicomdir import is_dicomdir, list_dicomdir
from cxrseg.runtime.readers.reading import SUFFIXES, is_image_file

HIDDEN = "hidden"
OURS = "written by cxrseg"
LISTING = "DICOMDIR"
NO_IMAGE = "no image"
NO_FILE = "no regular file"
UNREADABLE = "not readable"
DEAD_LINK = "link to nothing"
SEARCHED = "folder that is searched already"
AROUND = "link to a folder around this one"
LINK = "link to a folder"


@dataclass(frozen=True)
class ImageFile:
    """An image that an input stands for.

    Attributes:
        path: The image file.
        subfolder: Its folder relative to the input, ``.`` if it is the input itself.
    """

    path: Path
    subfolder: Path = Path()


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that a search has met and left out.

    Attributes:
        path: The file or folder.
        reason: Why, in a few words: ``hidden``, ``no image``.
    """

    path: Path
    reason: str


Found = ImageFile | LeftOut | CxrsegError
"""What a search gives: an image, what is none, or why something cannot be searched."""


def scan(path: str | os.PathLike[str]) -> list[Found]:
    """Return the images that one input stands for, and what was left out.

    Args:
        path: A file, taken as it is whether or not it exists; a DICOMDIR, which stands for the
            images that it lists; or a folder, which is walked with the folders in it, and those
            that links in it lead to, for files with the suffix of an image, DICOM files of any
            name, and other images without a suffix.

    Returns:
        Images, each folder's sorted by name, and errors for what cannot be searched.
    """
    path = Path(path)
    if is_folder(path):
        found = list(_walk(path, follow_links=True))
        if not all(isinstance(each, LeftOut) for each in found):
            return found
        remedy = f"expected files ending in {', '.join(sorted(SUFFIXES))}, or DICOM files"
        return [*found, CxrsegError(path, "the folder holds no images", remedy)]
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
            if isinstance(image, ImageFile):
                images.append(image.path)
    return images


def list_images(folder: Path) -> list[ImageFile | CxrsegError]:
    """Return the images in a folder and those in it; none is no error, and links lead nowhere."""
    found = _walk(folder, follow_links=False)
    return [each for each in found if not isinstance(each, LeftOut)]


def is_image(path: Path) -> bool:
    """Tell whether a search takes this file for an image, by its name and its head.

    Hidden files, cxrseg's own images and DICOMDIR files it does not take, nor what is unreadable.
    """
    try:
        return _reason_against(path) is None
    except OSError:
        return False


def _reason_against(path: Path) -> str | None:
    """Return why a search leaves a file out, None where it is an image.

    Raises:
        OSError: The file may not be looked at.
    """
    if path.name.startswith("."):
        return HIDDEN
    if is_dicomdir(path):
        return LISTING
    if not path.is_file():
        return DEAD_LINK if path.is_symlink() and not path.exists() else NO_FILE
    if path.suffix.lower() not in SUFFIXES and not is_image_file(path):
        return OURS if is_ours(path) else NO_IMAGE
    return OURS if is_our_image(path) else None


def _walk(root: Path, follow_links: bool) -> Iterator[Found]:
    """Walk a folder and those in it, in the order of names, files first, linked folders last.

    Each folder is searched once. A link to a folder around `root` is not followed: all else that
    lies there was not meant.

    Yields:
        An image, what is left out, or why something cannot be searched.
    """
    around = {_identity(folder) for folder in root.resolve().parents}
    searched = set[tuple[int, int]]()
    folders, links = [root], deque[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.popleft()
        try:
            identity = _identity(folder)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            cause = f"the folder cannot be read ({error.strerror})"
            yield CxrsegError(folder, cause, "check the permissions")
            continue
        if identity in searched or identity in around:
            yield LeftOut(folder, SEARCHED if identity in searched else AROUND)
            continue
        searched.add(identity)
        below: list[Path] = []
        for entry in entries:
            path = folder / entry.name
            if not is_folder(path):
                yield _look_at(path, folder.relative_to(root))
            elif entry.name.startswith("."):
                yield LeftOut(path, HIDDEN)
            elif not entry.is_symlink():
                below.append(path)
            elif follow_links:
                links.append(path)
            else:
                yield LeftOut(path, LINK)
        folders += reversed(below)


def _look_at(path: Path, subfolder: Path) -> Found:
    """Return a file as an image, as left out, or as an image that may not be looked at."""
    try:
        reason = _reason_against(path)
    except OSError as error:
        if path.suffix.lower() not in SUFFIXES:
            return LeftOut(path, UNREADABLE)
        cause = f"cannot be read ({error.strerror})"
        return CxrsegError(path, cause, "check the permissions of its folder")
    return ImageFile(path, subfolder) if reason is None else LeftOut(path, reason)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _scan_dicomdir(path: Path) -> list[Found]:
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


def is_folder(path: Path) -> bool:
    """Tell whether a path is a folder; it is none where that cannot be told."""
    try:
        return path.is_dir()
    # A name too long, a parent that may not be entered: reading the file will fail with the reason.
    except OSError:
        return False
