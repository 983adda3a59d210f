"""The pictures: the label mask and the overlay as PNG."""

from __future__ import annotations

import io
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxrseg.runtime.core.labels import BACKGROUND, Label
from cxrseg.runtime.core.radiograph import Radiograph
from cxrseg.runtime.core.segmentation import Segmentation
from cxrseg.runtime.core.strips import strips
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.files.own_files import MARK

_LINE = 400
"""The overlay's contours are as wide as the image's longer side divided by this. Of a strip twice
the shorter side counts: thicker than the image is wide, lines take minutes to draw."""

_SAMPLES = 1_000_000

_SOFTWARE = f"{MARK} {package_version()}"

# A large X-ray takes seconds at the default level and is hardly smaller.
_PNG_OPTIONS = [cv2.IMWRITE_PNG_COMPRESSION, 1]
# Older releases of OpenCV choose the filter themselves.
if hasattr(cv2, "IMWRITE_PNG_FILTER"):
    _PNG_OPTIONS += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]

# Signature and header, after which other chunks may stand.
_PNG_START = 8 + 25


def palette(labels: tuple[Label, ...]) -> list[int]:
    """Return the flat RGB palette of a label mask, 256 entries: its values' colors, else black."""
    colors = {BACKGROUND: (0, 0, 0)} | {label.value: label.color for label in labels}
    return [part for value in range(256) for part in colors.get(value, (0, 0, 0))]


def lungs_png(segmentation: Segmentation) -> bytes:
    """Return the label mask as an 8-bit palette PNG whose pixel values are the labels' values."""
    image = Image.fromarray(segmentation.mask)
    # All 256 entries: with fewer Pillow packs several pixels in a byte, and readers differ there.
    image.putpalette(palette(segmentation.labels))
    file = _PngFile()
    image.save(file, pnginfo=_mark())
    return file.getvalue()


def overlay(segmentation: Segmentation, radiograph: Radiograph) -> NDArray[np.uint8]:
    """Return the X-ray with each lung's contour in its color: uint8 [H, W, 3], RGB.

    It lies in memory as BGR, in which OpenCV encodes it without another copy.
    """
    pixels = radiograph.pixels
    canvas = np.empty((*pixels.shape, 3), dtype=np.uint8)
    low, high = _window(pixels)
    for rows in strips(*radiograph.size):
        canvas[rows] = _display(pixels[rows], low, high)[:, :, None]
    thickness = max(1, round(min(max(pixels.shape), 2 * min(pixels.shape)) / _LINE))
    for label in segmentation.labels:
        lung = (segmentation.mask == label.value).view(np.uint8)
        contours, _ = cv2.findContours(lung, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, label.color[::-1], thickness)
    return canvas[:, :, ::-1]


def rgb_png(picture: NDArray[np.uint8]) -> bytes:
    """Return uint8 [H, W, 3], RGB, as an 8-bit PNG.

    OpenCV writes it: other threads may run meanwhile, and one filter for all rows takes half the
    time of Pillow's search for the best of each row.
    """
    _, data = cv2.imencode(".png", np.ascontiguousarray(picture[:, :, ::-1]), _PNG_OPTIONS)
    text = b"tEXt" + f"Software\0{_SOFTWARE}".encode("ascii")
    chunk = (len(text) - 4).to_bytes(4) + text + zlib.crc32(text).to_bytes(4)
    return b"".join([data[:_PNG_START].data, chunk, data[_PNG_START:].data])


class _PngFile(io.BytesIO):
    """A PNG in memory. Given a name, Pillow loads the plugin of this format; given "PNG", six."""

    name = "x.png"


def _mark() -> PngInfo:
    info = PngInfo()
    info.add_text("Software", _SOFTWARE)
    return info


def _window(pixels: NDArray[np.float32]) -> tuple[float, float]:
    """Return the gray values of float32 [H, W] to show black and white: percentiles 0.5 and 99.5.

    Files of 16 bits often use a fraction of their range and would show black.
    """
    step = max(1, int((pixels.size / _SAMPLES) ** 0.5))
    low, high = (float(x) for x in np.percentile(pixels[::step, ::step], (0.5, 99.5)))
    return (low, high) if high - low >= np.finfo(np.float32).eps else (0.0, 1.0)


def _display(pixels: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    """Window float32 [H, W] for the eye: uint8 [H, W]."""
    scaled = (pixels - np.float32(low)) * np.float32(255 / (high - low))
    return np.asarray(np.clip(np.rint(scaled), 0, 255), dtype=np.uint8)
