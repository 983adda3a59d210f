"""PNG, JPEG, TIFF and BMP files.

Pillow decodes them, and libtiff the numbers of TIFF files. Pillow keeps 16 bits per value in gray
images only: 16-bit color and 16-bit gray with alpha arrive as 8 bits, which is enough for a
contour.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cxrseg.runtime.core.errors import CxrsegError, unreadable
from cxrseg.runtime.core.radiograph import MAX_PIXELS, Radiograph, to_unit
from cxrseg.runtime.core.strips import strips
from cxrseg.runtime.files.opening import open_file
from cxrseg.runtime.readers.raster.picture import Picture, decode, open_with

_MAGIC = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP"}
"""Start of a file -> Pillow's name of its format; other files here are TIFF."""


def read_raster(path: Path) -> Radiograph:
    """Read a PNG, JPEG, TIFF or BMP file.

    Color becomes luma; alpha is composited over black; palettes are resolved; an Exif
    orientation is applied. 8 bits are divided by 255, 9 to 16 by the largest value of their
    depth; other numbers are stretched between their finite extremes.

    Args:
        path: The file.

    Returns:
        The radiograph, without spacing: these formats do not hold it reliably.

    Raises:
        CxrsegError: The file is damaged, too large, too small, of several pages, or none of these.
    """
    with _explained(path):
        picture = _read(path)
        gray = _gray(picture)
        pixels = to_unit(gray, picture.top)
    if picture.white_is_zero:
        np.subtract(1, pixels, out=pixels)
    provenance: dict[str, str | int | float] = {
        "format": picture.format,
        "mode": picture.mode,
        "bits": 8 * gray.dtype.itemsize,
    }
    return Radiograph(pixels, provenance=provenance)


def read_picture(path: Path) -> Picture:
    """Read a PNG, JPEG, TIFF or BMP file with its colors, for what is no X-ray: a mask.

    Args:
        path: The file.

    Returns:
        The picture; black is 0.

    Raises:
        CxrsegError: As `read_raster`; or white is 0 at a depth whose black is not known.
    """
    with _explained(path):
        picture = _read(path)
    if not picture.white_is_zero:
        return picture
    if picture.pixels.dtype != np.uint16:
        cause = f"white is 0 in an image of {picture.pixels.dtype} values"
        raise CxrsegError(path, cause, "save it as 8-bit PNG")
    pixels = np.asarray(int(picture.top or 65535) - picture.pixels, np.uint16)
    return replace(picture, pixels=pixels, white_is_zero=False)


def raster_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of a PNG, JPEG, TIFF or BMP file by its header, as it is stored.

    Raises:
        Exception: On damaged files Pillow's parsers raise nearly any type.
    """
    with open_file(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = _format_of(file)
        if name == "TIFF":
            from cxrseg.runtime.readers.raster.tiff import read_directory

            directory = read_directory(file)
            return directory.height, directory.width
        if name == "PNG":
            # Its metadata may be what Pillow refuses.
            head = file.read(24)
            return int.from_bytes(head[20:]), int.from_bytes(head[16:20])
        with open_with(name, file) as image:
            return image.height, image.width


def _format_of(file: BinaryIO) -> str:
    """Return Pillow's name of a file's format, by its first bytes."""
    head = file.read(8)
    file.seek(0)
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "TIFF")


def _read(path: Path) -> Picture:
    try:
        file = open_file(path)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    with file:
        name = _format_of(file)
        if name == "TIFF":
            # Imported here: few X-rays are TIFF.
            from cxrseg.runtime.readers.raster.tiff import decode_tiff

            return decode_tiff(file, path)
        try:
            return decode(file, path, name)
        except CxrsegError:
            raise
        # On damaged files Pillow's parsers raise nearly any type; a MemoryError of a PNG that tells
        # of a chunk of 4 GiB, which its mended form does not take.
        except Exception as error:
            # Its traceback would keep the half decoded image.
            failure = error.with_traceback(None)
        mended = _mended(file, path, name)
        if mended is None:
            raise failure
        return mended


def _mended(file: BinaryIO, path: Path, name: str) -> Picture | None:
    """Return the picture of a file that Pillow refuses although all its pixels are there."""
    # Imported here: nearly all files are sound.
    from cxrseg.runtime.readers.raster.mending import with_end, without_metadata

    if name == "PNG":
        return decode(without_metadata(file), path, name)
    versions = with_end(file) if name == "JPEG" else ()
    pictures = (decode(version, path, name) for version in versions)
    first = next(pictures, None)
    return first if first and all(_shows_the_same(first, other) for other in pictures) else None


def _shows_the_same(one: Picture, other: Picture) -> bool:
    return all(np.array_equal(one.pixels[rows], other.pixels[rows]) for rows in strips(*one.size))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into one line for the user."""
    # Pillow warns of damaged metadata that does not matter here, and its own limit is not ours.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except CxrsegError:
            raise
        except UnidentifiedImageError as error:
            cause = "the image is damaged or of a kind that cannot be read"
            raise CxrsegError(path, cause, "export or copy it again") from error
        except Image.DecompressionBombError as error:
            limit = f"at most {MAX_PIXELS // 1_000_000} million pixels are accepted"
            raise CxrsegError(path, "the image is too large", limit) from error
        except MemoryError as error:
            cause = "not enough memory to read the image"
            raise CxrsegError(path, cause, "close other programs") from error
        # On damaged files Pillow's parsers raise nearly any type, not OSError alone.
        except Exception as error:
            detail = str(error) or type(error).__name__
            cause = f"the image is damaged or of a kind that cannot be read ({detail})"
            raise CxrsegError(path, cause, "export or copy it again") from error


def _gray(picture: Picture) -> NDArray[Any]:
    """Return gray values [H, W] at their stored depth, over black: of color, luma in uint8."""
    pixels, alpha = picture.pixels, picture.alpha
    if pixels.ndim == 2 and alpha is None:
        return pixels
    gray = np.empty(pixels.shape[:2], np.uint8 if pixels.ndim == 3 else pixels.dtype)
    for rows in strips(*picture.size):
        part = pixels[rows]
        if part.ndim == 3:
            part = np.asarray(Image.fromarray(np.ascontiguousarray(part)).convert("L"))
        if alpha is not None:
            part = _over_black(part, alpha[rows])
        gray[rows] = part
    return gray


def _over_black(gray: NDArray[Any], alpha: NDArray[np.uint8]) -> NDArray[Any]:
    product = gray.astype(np.uint32) * alpha
    return np.asarray((product + 127) // 255, gray.dtype)
