"""PNG, JPEG, TIFF and BMP files.

Pillow decodes them. It keeps 16 bits per value in gray images only: 16-bit color and 16-bit gray
with alpha arrive as 8 bits, which is enough for a contour.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Picture:
    """A raster file as a viewer shows it: upright, one page, palette resolved.

    Attributes:
        pixels: Gray values [H, W] at their stored depth (bool, uint8, uint16, int32 or float32),
            or uint8 [H, W, 3], RGB. Black is 0.
        alpha: uint8 [H, W], 255 = opaque; None where all of it is opaque.
        exif_orientation: The Exif orientation, 1 to 8, that the pixels were turned by.
    """

    pixels: NDArray[Any]
    alpha: NDArray[np.uint8] | None
    exif_orientation: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, as shown."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])


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
    with _decoding(path), Image.open(path, formats=FORMATS) as image:
        inverted, top, _ = _load(image, path)
        gray = _gray(_upright(image))
        file_format, mode = str(image.format), image.mode
    pixels = to_unit(gray, top)
    if inverted:
        np.subtract(1, pixels, out=pixels)
    provenance: dict[str, str | int | float] = {
        "format": file_format,
        "mode": mode,
        "bits": 16 if mode.startswith("I;16") else gray.dtype.itemsize * 8,
    }
    return Radiograph(np.ascontiguousarray(pixels), provenance=provenance)


def read_picture(path: Path) -> Picture:
    """Read a PNG, JPEG, TIFF or BMP file with its colors, for what is no X-ray: a mask.

    Args:
        path: The file.

    Raises:
        CxrsegError: As `read_raster`; or white is 0 at a depth whose black is not known.
    """
    with _decoding(path), Image.open(path, formats=FORMATS) as image:
        inverted, top, turn = _load(image, path)
        pixels, alpha = _colors(_upright(image))
    if inverted:
        if pixels.dtype != np.uint16:
            cause = f"white is 0 in an image of {pixels.dtype} values"
            raise CxrsegError(path, cause, "save it as 8-bit PNG")
        pixels = np.asarray(int(top or 65535) - pixels, np.uint16)
    return Picture(pixels, alpha, turn if turn in range(1, 9) else 1)


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
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
            # A damaged PNG may state a length of 4 GiB, which Pillow then allocates.
            cause = "not enough memory to read the image"
            remedy = "close other programs; if that does not help, export or copy it again"
            raise CxrsegError(path, cause, remedy) from error
        # On damaged files Pillow's parsers raise nearly any type, not OSError alone.
        except Exception as error:
            detail = str(error) or type(error).__name__
            cause = f"the image is damaged or of a kind that cannot be read ({detail})"
            raise CxrsegError(path, cause, "export or copy it again") from error


def _load(image: Image.Image, path: Path) -> tuple[bool, float | None, Any]:
    """Decode an opened image; return what `_tiff_scale` does, and the Exif orientation."""
    # Before anything is decoded: the size is in the header.
    check_size(image.height, image.width, path)
    _refuse_pages(image, path)
    inverted, top = _tiff_scale(image)
    if image.format == "PNG" and image.mode in _PNG_16:
        top = 65535.0
    # libtiff writes notes of its own on damaged files.
    with quiet() if image.format == "TIFF" else nullcontext():
        # Asked for before: of a TIFF Pillow removes it when it decodes.
        turn = image.getexif().get(_ORIENTATION, 1)
        image.load()
    return inverted, top, turn


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


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _resolved(image: Image.Image) -> Image.Image:
    """Return an image of 8 bits as 1, L, RGB or RGBA, its palette and transparency resolved."""
    if "transparency" in image.info and image.mode in ("1", "L", "RGB", "P"):
        return image.convert("RGBA")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        return image.convert("RGBA")
    return image if image.mode in ("1", "L", "RGB") else image.convert("RGB")


def _gray(image: Image.Image) -> NDArray[Any]:
    """Return gray values [H, W]: uint8, uint16, int32 or float32."""
    if _is_deep(image):
        return np.asarray(image)
    image = _resolved(image)
    return _over_black(image) if image.mode == "RGBA" else np.asarray(image.convert("L"))


def _colors(image: Image.Image) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    """Return gray values [H, W] or RGB [H, W, 3], and alpha where something is transparent."""
    if _is_deep(image):
        pixels = np.asarray(image)
        clear = image.info.get("transparency")
        return pixels, None if clear is None else np.where(pixels == clear, 0, 255).astype(np.uint8)
    image = _resolved(image)
    if image.mode != "RGBA":
        return np.asarray(image), None
    alpha = np.asarray(image.getchannel("A"))
    return np.asarray(image.convert("RGB")), None if alpha.min() == 255 else alpha


def _over_black(image: Image.Image) -> NDArray[np.uint8]:
    gray = np.asarray(image.convert("RGB").convert("L"), dtype=np.uint8)
    alpha = np.asarray(image.getchannel("A"))
    if alpha.min() == 255:
        return gray
    product = gray.astype(np.uint16) * alpha
    return np.asarray((product + 127) // 255, dtype=np.uint8)
