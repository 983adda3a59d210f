"""A raster file as a viewer shows it, and decoding it with Pillow."""

from __future__ import annotations

import logging
import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.radiograph import check_size
from cxrseg.runtime.core.strips import strips
from cxrseg.runtime.readers.jpeg import check_scans
from cxrseg.runtime.readers.raster.checksums import has_sound_pixels

# Pillow logs what it raises as well; without a handler that goes to standard error.
logging.getLogger("PIL").addHandler(logging.NullHandler())

ORIENTATION = 274
"""Tag of the orientation, in Exif and TIFF."""

_DEEP = ("I", "F")
_LOSSY = ("jpeg", "tiff_jpeg")
"""Pillow's names of a TIFF's JPEG compressions."""

_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


@dataclass(frozen=True)
class Picture:
    """A raster file as a viewer shows it: upright, one page, palette resolved.

    Attributes:
        pixels: Gray values [H, W] at their stored depth (bool, integers or floats of any width), or
            uint8 [H, W, 3], RGB. Black is 0, but where `white_is_zero`.
        alpha: uint8 [H, W], 255 = opaque; None where all of it is opaque.
        exif_orientation: The Exif orientation, 1 to 8, that the pixels were turned by.
        white_is_zero: Whether the gray values are still those of a negative.
        top: The gray value of white, where it is known and not the largest of the type.
        format: Pillow's name of the file format.
        mode: Pillow's name of the pixel format, or the type of the numbers that it has none for.
        lossy: Whether its compression, JPEG's, changes values.
    """

    pixels: NDArray[Any]
    alpha: NDArray[np.uint8] | None
    exif_orientation: int = 1
    white_is_zero: bool = False
    top: float | None = None
    format: str = ""
    mode: str = ""
    lossy: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, as shown."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])

    def turned(self, orientation: int) -> Picture:
        """Return the picture laid upright, from pixels stored as an Exif orientation says."""
        if orientation not in range(1, 9):
            orientation = 1
        alpha = None if self.alpha is None else _upright(self.alpha, orientation)
        pixels = _upright(self.pixels, orientation)
        return replace(self, pixels=pixels, alpha=alpha, exif_orientation=orientation)


def _upright(stored: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return [H, W, ...] as an Exif orientation says, as a view."""
    turned = stored.swapaxes(0, 1) if orientation >= 5 else stored
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return turned[::rows, ::columns]


def open_with(file_format: str, file: BinaryIO) -> Image.Image:
    """Open a file with Pillow's decoder of one format, and read its header.

    `Image.open` loads those of five formats for a file without a name.

    Raises:
        UnidentifiedImageError: The decoder does not take it.
        Exception: On damaged files Pillow's parsers raise nearly any type.
    """
    import_module(f"PIL.{file_format.capitalize()}ImagePlugin")
    factory, _ = Image.OPEN[file_format]
    try:
        return factory(file, "")
    # What `Image.open` takes for another format.
    except (SyntaxError, IndexError, TypeError, struct.error) as error:
        raise UnidentifiedImageError(f"this is no {file_format}") from error


def decode(file: BinaryIO, path: Path, file_format: str) -> Picture:
    """Decode a raster file with Pillow.

    Args:
        file: The open file. Not its path: of a file that it opens itself Pillow maps the pixels
            into memory, and in some releases lays turned ones wrongly.
        path: Its name, for messages.
        file_format: Pillow's name of its format; no other decoder is tried.

    Raises:
        CxrsegError: The image is too large, too small or of several frames.
        Exception: On damaged files Pillow's parsers raise nearly any type.
    """
    with open_with(file_format, file) as image:
        # Before anything is decoded: the size is in the header.
        check_size(image.height, image.width, path)
        if file_format == "JPEG":
            file.seek(0)
            check_scans(file.read(), image.height * image.width)
        # A phone's JPEG may carry a preview as a second picture: its first is the photograph.
        if file_format == "PNG" and getattr(image, "is_animated", False):
            refuse_pages(path)
        mode = image.mode
        if file_format != "TIFF":
            # Before its Exif data, which load a PNG, and whose failures do not count.
            image.load()
        # Asked for before: of a TIFF Pillow turns the pixels itself, and removes it.
        told = _orientation(image)
        image.load()
        pixels, alpha = _values(image)
        left = _orientation(image)
        # A pixel has 8 bytes at most, a row and each of the parts of interlacing one more.
        most = 2 * image.height * (8 * image.width + 1)
        if file_format == "PNG" and not has_sound_pixels(file, most):
            raise ValueError("its pixels are damaged")
        lossy = file_format == "JPEG" or image.info.get("compression") in _LOSSY
    if file_format == "BMP" and alpha is not None and not alpha.any():
        # Programs that know of no alpha leave a pixel's fourth byte empty.
        alpha = None
    top = _top(file_format, mode)
    picture = Picture(pixels, alpha, top=top, format=file_format, mode=mode, lossy=lossy)
    return picture.turned(told) if left == told else replace(picture, exif_orientation=told)


def _orientation(image: Image.Image) -> Any:
    """Return the Exif orientation, 1 where there is none or the Exif data are damaged."""
    # On damaged data Pillow raises nearly any type.
    with suppress(Exception):
        return image.getexif().get(ORIENTATION, 1)
    return 1


def refuse_pages(path: Path) -> None:
    """Refuse a file of several pages or frames.

    Raises:
        CxrsegError: Always.
    """
    cause = "the file holds several pages or frames"
    raise CxrsegError(path, cause, "save each page as a file of its own")


def _top(file_format: str, mode: str) -> float | None:
    # A 16-bit gray PNG is "I" in some releases of Pillow and "I;16" in others.
    return 65535.0 if file_format == "PNG" and mode == "I" else None


def _values(image: Image.Image) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    """Return gray values [H, W] or RGB [H, W, 3], and alpha where something is transparent."""
    first = _part(image, slice(0, 1))
    pixels = np.empty((image.height, *first[0].shape[1:]), first[0].dtype)
    alpha = None if first[1] is None else np.empty(pixels.shape[:2], np.uint8)
    for rows in strips(image.height, image.width):
        pixels[rows], part = _part(image, rows)
        if alpha is not None and part is not None:
            alpha[rows] = part
    return pixels, None if alpha is None or alpha.min() == 255 else alpha


def _part(image: Image.Image, rows: slice) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    part = image.crop((0, rows.start, image.width, rows.stop))
    clear = image.info.get("transparency")
    if part.mode in _DEEP or part.mode.startswith("I;16"):
        pixels = np.asarray(part)
        return pixels, None if clear is None else np.where(pixels == clear, 0, 255).astype(np.uint8)
    if part.mode in _WITH_ALPHA or (clear is not None and part.mode in ("1", "L", "RGB", "P")):
        part = part.convert("RGBA")
        return np.asarray(part.convert("RGB")), np.asarray(part.getchannel("A"))
    return np.asarray(part if part.mode in ("1", "L", "RGB") else part.convert("RGB")), None
