"""Turning a segmentation into files."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxrseg.runtime.card import INTENDED_USE
from cxrseg.runtime.errors import CxrsegError
from cxrseg.runtime.files import write_together
from cxrseg.runtime.labels import BACKGROUND, Label
from cxrseg.runtime.outputs import MARK, Outputs, is_ours
from cxrseg.runtime.radiograph import Radiograph
from cxrseg.runtime.segmentation import Segmentation
from cxrseg.runtime.version import package_version

_LINE = 400
"""The overlay's contours are as wide as the image's longer side divided by this."""

_SAMPLES = 1_000_000


def write(
    segmentation: Segmentation,
    radiograph: Radiograph,
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
) -> Outputs:
    """Write mask, overlay and report of one segmentation: all three or none.

    Args:
        segmentation: The result.
        radiograph: The image that it was made from.
        source: The image file, whose name the outputs take: ``x.png`` gives ``x_lungs.png``,
            ``x_overlay.png`` and ``x.json``. It need not exist.
        folder: Existing folder for the outputs; None = beside the source.

    Returns:
        The paths written.

    Raises:
        CxrsegError: A file cannot be written, or exists and is not an earlier output of cxrseg.
    """
    source = Path(source)
    outputs = Outputs.of(source, folder)
    for path in outputs:
        if _is_foreign(path):
            cause = "exists and was not written by cxrseg, so it is kept"
            raise CxrsegError(path, cause, "rename it, or choose another folder with -o")
    write_together(
        {
            outputs.lungs: lungs_png(segmentation),
            outputs.overlay: overlay_png(segmentation, radiograph),
            outputs.report: report_json(segmentation, source).encode("ascii"),
        }
    )
    return outputs


def _is_foreign(path: Path) -> bool:
    try:
        return path.is_file() and not is_ours(path)
    # A name too long, a folder that may not be entered: writing will tell.
    except OSError:
        return False


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


def overlay_png(segmentation: Segmentation, radiograph: Radiograph) -> bytes:
    """Return the X-ray with each lung's contour in its color, as an 8-bit RGB PNG."""
    gray = _display(radiograph.pixels)
    canvas = np.repeat(gray[:, :, None], 3, axis=2)
    thickness = max(1, round(max(gray.shape) / _LINE))
    for label in segmentation.labels:
        lung = (segmentation.mask == label.value).astype(np.uint8)
        contours, _ = cv2.findContours(lung, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, label.color, thickness)
    file = _PngFile()
    # A large X-ray takes seconds at the default level and is hardly smaller.
    Image.fromarray(canvas).save(file, compress_level=1, pnginfo=_mark())
    return file.getvalue()


def report_json(segmentation: Segmentation, source: Path) -> str:
    """Return the report as ASCII JSON text."""
    report = {
        "program": f"{MARK} {package_version()}",
        "intended_use": INTENDED_USE,
        "input": source.name,
        **segmentation.to_dict(),
    }
    return json.dumps(report, indent=2, allow_nan=False) + "\n"


class _PngFile(io.BytesIO):
    """A PNG in memory. Told by a name, Pillow loads this format alone; told by "PNG", six."""

    name = "x.png"


def _mark() -> PngInfo:
    info = PngInfo()
    info.add_text("Software", f"{MARK} {package_version()}")
    return info


def _display(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Window float32 [H, W] for the eye: uint8 [H, W] between the 0.5th and 99.5th percentile.

    Files of 16 bits often use a fraction of their range and would show black.
    """
    step = max(1, int((pixels.size / _SAMPLES) ** 0.5))
    low, high = (float(x) for x in np.percentile(pixels[::step, ::step], (0.5, 99.5)))
    if high <= low:
        low, high = 0.0, 1.0
    scaled = (pixels - np.float32(low)) * np.float32(255 / (high - low))
    return np.asarray(np.clip(np.rint(scaled), 0, 255), dtype=np.uint8)
