"""PNG, JPEG, TIFF and BMP files.

Pillow decodes them. It keeps 16 bits per value in gray images only: 16-bit color and 16-bit gray
with alpha arrive as 8 bits, which is enough for a contour.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.radiograph import MAX_PIXELS, Radiograph, check_size, to_unit
from cxrseg.runtime.terminal.quiet import quiet

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
"""Pillow's names of the formats; no other decoder is ever tried on a file."""

# Pillow logs what it raises as well; without a handler that goes to standard error.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_BITS_PER_SAMPLE = 258
_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0
_ORIENTATION = 274

# A 16-bit gray PNG is "I" in some releases of Pillow and "I;16" in others.
_PNG_16 = ("I", "I;16")


def read_raster(path: Path) -> Radiograph:
    """Read a PNG, JPEG, TIFF or BMP file.

    Color becomes luma; alpha is composited over black; palettes are resolved; an Exif
    orientation is applied. 8 bits are divided by 255, 9 to 16 by the largest value of their
    depth; 32-bit integer and float images are stretched between their finite extremes.

    Args:
        path: The file.

    Returns:
        The radiograph, without spacing: these formats do not hold it reliably.

    Raises:
        CxrsegError: The file is damaged, too large, too small, of several pages, or none of these.
    """
    # Pillow warns of damaged metadata that does not matter here, and its own limit is not ours.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _decode(path)
        except CxrsegError:
            raise
        except UnidentifiedImageError as error:
            cause = "the image is damaged or of a kind that cannot be read"
            raise CxrsegError(path, cause, "export or copy it again") from error
        except Image.DecompressionBombError as error:
            limit = f"at most {MAX_PIXELS // 1_000_000} million pixels are accepted"
            raise CxrsegError(path, "the image is too large", limit) from error
        except MemoryError as error:
            # A damaged PNG may state a length of 4 GiB, which Pillow then allocates.
            cause = "not enough memory to read the image"
            remedy = "close other programs; if that does not help, export or copy it again"
            raise CxrsegError(path, cause, remedy) from error
        # On damaged files Pillow's parsers raise nearly any type, not OSError alone.
        except Exception as error:
            detail = str(error) or type(error).__name__
            cause = f"the image is damaged or of a kind that cannot be read ({detail})"
            raise CxrsegError(path, cause, "export or copy it again") from error


def _decode(path: Path) -> Radiograph:
    with Image.open(path, formats=FORMATS) as image:
        # Before anything is decoded: the size is in the header.
        check_size(image.height, image.width, path)
        _refuse_pages(image, path)
        inverted, top = _tiff_scale(image)
        if image.format == "PNG" and image.mode in _PNG_16:
            top = 65535.0
        file_format, mode = str(image.format), image.mode
        # libtiff writes notes of its own on damaged files.
        with quiet() if image.format == "TIFF" else nullcontext():
            image.load()
        gray = _gray(_upright(image))
    pixels = to_unit(gray, top)
    if inverted:
        np.subtract(1, pixels, out=pixels)
    provenance: dict[str, str | int | float] = {
        "format": file_format,
        "mode": mode,
        "bits": 16 if mode.startswith("I;16") else gray.dtype.itemsize * 8,
    }
    return Radiograph(np.ascontiguousarray(pixels), provenance=provenance)


def _refuse_pages(image: Image.Image, path: Path) -> None:
    # A phone's JPEG may carry a preview as a second picture: its first is the photograph.
    if image.format not in ("PNG", "TIFF"):
        return
    # Not counted: that takes minutes where a TIFF holds a hundred thousand.
    if getattr(image, "is_animated", False):
        cause = "the file holds several pages or frames"
        raise CxrsegError(path, cause, "save each page as a file of its own")


def _tiff_scale(image: Image.Image) -> tuple[bool, float | None]:
    """Return whether gray values are still inverted, and the value of white where it is known."""
    # Asked for by its attribute: the class alone takes long to import.
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return False, None
    # Pillow turns white-is-zero around at 8 bits and below, and leaves deeper images as stored.
    deep = image.mode == "F" or image.mode.startswith("I")
    inverted = deep and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    bits = tags.get(_BITS_PER_SAMPLE, (0,))[0]
    if image.mode.startswith("I;16") and 8 < bits < 16:
        return inverted, float(2**bits - 1)
    return inverted, None


def _upright(image: Image.Image) -> Image.Image:
    """Return the image as its Exif orientation says."""
    if image.getexif().get(_ORIENTATION, 1) == 1:
        return image
    # Imported here: few X-rays have one.
    from PIL.ImageOps import exif_transpose

    return exif_transpose(image)


def _gray(image: Image.Image) -> NDArray[Any]:
    """Return gray values [H, W]: uint8, uint16, int32 or float32."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return np.asarray(image)
    if "transparency" in image.info and image.mode in ("1", "L", "RGB", "P"):
        image = image.convert("RGBA")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        return _over_black(image.convert("RGBA"))
    if image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")
    return np.asarray(image.convert("L"))


def _over_black(image: Image.Image) -> NDArray[np.uint8]:
    gray = np.asarray(image.convert("RGB").convert("L"), dtype=np.uint8)
    alpha = np.asarray(image.getchannel("A"))
    if alpha.min() == 255:
        return gray
    product = gray.astype(np.uint16) * alpha
    return np.asarray((product + 127) // 255, dtype=np.uint8)
