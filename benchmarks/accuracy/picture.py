"""A picture of the images on which a model does worst, to look at."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxrseg.benchmarks.accuracy.accuracy_report import problem
from cxrseg.benchmarks.accuracy.metrics import Mask
from cxrseg.benchmarks.accuracy.scoring import Score, read_reference
from cxrseg.benchmarks.harness.legacy_samples import Case
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.own_files import MARK, is_ours
from cxrseg.runtime.core.radiograph import Radiograph
from cxrseg.runtime.core.segmentation import Segmentation
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.readers import read
from cxrseg.runtime.segmenter import Segmenter
from cxrseg.runtime.writers.images import overlay_png

Color = tuple[int, int, int]
Canvas = NDArray[np.uint8]

REFERENCE: Color = (0, 220, 220)
"""Color of the reference's outline, RGB in 0..255."""

PREDICTION: Color = (255, 140, 0)
"""Color of the model's outline, RGB in 0..255."""

TILE = 400
"""Longer side of each image in the picture, pixels."""

COLUMNS = 5
"""Images beside each other."""

_BAND = 44
_MARGIN = 8
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TEXT = 0.42
_INK: Color = (230, 230, 230)


def check_picture(path: Path) -> None:
    """Refuse, before the work, a picture that could not be written after it.

    Args:
        path: The file asked for.

    Raises:
        CxrsegError: It does not end in ``.png``, its folder is missing or not writable, or a file
            stands there that cxrseg did not write.
    """
    if path.suffix != ".png":
        raise CxrsegError(path, "the picture does not end in .png", "name it like worst.png")
    remedy = "choose another with --picture"
    if not path.parent.is_dir():
        raise CxrsegError(path.parent, "no such folder", f"make it, or {remedy}")
    if not os.access(path.parent, os.W_OK):
        raise CxrsegError(path.parent, "cannot be written to", remedy)
    if os.path.lexists(path) and not is_ours(path):
        cause = "exists and was not written by cxrseg, so it is kept"
        raise CxrsegError(path, cause, "rename it, or choose another name with --picture")


def picture_png(segmenter: Segmenter, images: Sequence[tuple[Score, Case]]) -> bytes:
    """Segment images once more and draw them with both outlines, side by side.

    Args:
        segmenter: The model that gave the scores.
        images: At least one image with its score, in the order of drawing.

    Returns:
        An 8-bit RGB PNG with a legend, and with the name and Dice above each image.

    Raises:
        CxrsegError: An image or mask cannot be read.
    """
    tiles = []
    for score, case in images:
        radiograph = read(case.image)
        result = segmenter.segment(radiograph, str(case.image))
        reference = read_reference(case.mask, radiograph.size)
        tiles.append(_titled(outlines(result, radiograph, reference.union), score))
    file = io.BytesIO()
    info = PngInfo()
    # How `is_ours` tells our files from others.
    info.add_text("Software", f"{MARK} {package_version()}")
    Image.fromarray(_grid(tiles)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def outlines(result: Segmentation, radiograph: Radiograph, truth: Mask) -> Canvas:
    """Draw the outlines of a segmentation and of its reference on the X-ray.

    Args:
        result: The segmentation; its lungs are drawn in the color `PREDICTION`.
        radiograph: The image that it was made from.
        truth: The reference, bool [H, W], drawn over it in the color `REFERENCE`.

    Returns:
        uint8 [h, w, 3], RGB, the longer side `TILE` pixels.
    """
    one_color = tuple(replace(label, color=PREDICTION) for label in result.labels)
    drawn = np.frombuffer(overlay_png(replace(result, labels=one_color), radiograph), np.uint8)
    # OpenCV decodes to BGR.
    canvas = _fitted(np.asarray(cv2.imdecode(drawn, cv2.IMREAD_COLOR), np.uint8)[:, :, ::-1])
    height, width = canvas.shape[:2]
    small = cv2.resize(truth.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(small, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, REFERENCE, 1)
    return canvas


def _fitted(image: Canvas) -> Canvas:
    height, width = image.shape[:2]
    scale = TILE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=way), dtype=np.uint8)


def _titled(image: Canvas, score: Score) -> Canvas:
    """Return a square tile with a band for the title above it."""
    tile = np.zeros((_BAND + TILE, TILE, 3), np.uint8)
    height, width = image.shape[:2]
    top, left = _BAND + (TILE - height) // 2, (TILE - width) // 2
    tile[top : top + height, left : left + width] = image
    _write(tile, score.image, 16)
    words = [f"Dice {score.union.dice:.4f}, HD95 {score.union.hd95_px:.1f} px", problem(score)]
    _write(tile, ", ".join(word for word in words if word), 34)
    return tile


def _write(canvas: Canvas, text: str, baseline: int, left: int = 4, ink: Color = _INK) -> int:
    """Write text, cut at its beginning where it is too long; return its width in pixels."""
    # OpenCV's font has no other characters.
    text = text.encode("ascii", "replace").decode()
    kept = text
    while _width(kept) > canvas.shape[1] - left - 4 and len(kept) > 4:
        text = text[1:]
        kept = f"...{text}"
    cv2.putText(canvas, kept, (left, baseline), _FONT, _TEXT, ink, 1, cv2.LINE_AA)
    return _width(kept)


def _width(text: str) -> int:
    return int(cv2.getTextSize(text, _FONT, _TEXT, 1)[0][0])


def _grid(tiles: Sequence[Canvas]) -> Canvas:
    """Return the tiles in rows, below a legend."""
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    cell_height, cell_width = tiles[0].shape[0] + _MARGIN, tiles[0].shape[1] + _MARGIN
    head = 28
    size = (head + rows * cell_height, columns * cell_width + _MARGIN, 3)
    canvas = np.zeros(size, np.uint8)
    left = _MARGIN
    for name, color in (("reference", REFERENCE), ("model", PREDICTION)):
        left += _write(canvas, name, 18, left, color) + 16
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        top, left = head + row * cell_height, _MARGIN + column * cell_width
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return canvas
