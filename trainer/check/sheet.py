"""The contact sheet: X-rays with the outlines of their masks, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import LABELS
from cxrseg.runtime.core.preprocess import window
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.files.atomic import atomic_write, prepare_folder
from cxrseg.runtime.files.own_files import MARK, is_ours
from cxrseg.trainer.check.pairs import Finding
from cxrseg.trainer.data.pairs import read_pair
from cxrseg.trainer.data.samples import spread

TILES = 48
"""Most pairs of a sheet."""

_COLUMNS = 8
_SIDE = 224
_TEXT = 36
_LETTERS = 34
_WHITE, _RED = (255, 255, 255), (255, 64, 64)
_UNSIDED = (96, 208, 96)
_SIDED = {label.value: label.color for label in LABELS}


def check_sheet(path: Path) -> None:
    """Refuse, before the work, to replace a file that is no sheet.

    Raises:
        CxrsegError: Such a file has its name.
    """
    if path.exists() and not is_ours(path):
        raise CxrsegError(path, "exists and was not written by cxrseg", "choose another -o")


def write_sheet(findings: Sequence[Finding], path: Path) -> int:
    """Draw pairs side by side and write them as PNG.

    Those that look odd come first, with what is odd in red; at least a third are others. The right
    lung is blue, the left orange, as in cxrseg-run's overlays; lungs that are not told apart are
    green.

    Args:
        findings: What was seen; pairs that cannot be read are left out.
        path: The file; replaced where it is one of cxrseg's.

    Returns:
        Number of pairs on it; without any, no file is written.

    Raises:
        CxrsegError: It cannot be written.
    """
    check_sheet(path)
    usable = [finding for finding in findings if finding.error is None]
    odd = [finding for finding in usable if finding.reasons]
    usual = [finding for finding in usable if not finding.reasons]
    odd = spread(odd, max(TILES - len(usual), 2 * TILES // 3))
    chosen = [*odd, *spread(usual, TILES - len(odd))]
    if not chosen:
        return 0
    tiles = [_tile(finding) for finding in chosen]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % _COLUMNS)
    rows = [np.concatenate(tiles[i : i + _COLUMNS], 1) for i in range(0, len(tiles), _COLUMNS)]
    note = PngInfo()
    note.add_text("Software", f"{MARK} {package_version()}")
    prepare_folder(path.parent)
    with atomic_write(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, "PNG", pnginfo=note)
    return len(chosen)


def _tile(finding: Finding) -> NDArray[np.uint8]:
    """Return uint8 [H, W, 3], RGB: the X-ray, its outlines, and two lines of text."""
    pair = read_pair(finding.sample)
    height, width = pair.labels.shape
    scale = _SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(cv2.resize(pair.pixels, size, interpolation=cv2.INTER_AREA))
    gray = np.rint(255 * window(small.astype(np.float32), 0.5, 99.5)).astype(np.uint8)
    picture = np.repeat(gray[..., None], 3, axis=2)
    drawn = cv2.resize(pair.labels, size, interpolation=cv2.INTER_NEAREST)
    for value, color in _SIDED.items():
        lung = np.asarray(drawn == value, np.uint8)
        outlines, _ = cv2.findContours(lung, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, color if pair.sided else _UNSIDED, 1)
    tile = np.zeros((_SIDE + _TEXT, _SIDE, 3), np.uint8)
    tile[: size[1], : size[0]] = picture
    _write(tile, finding.sample.mask.name[-_LETTERS:], 13, _WHITE)
    _write(tile, "; ".join(finding.reasons)[:_LETTERS], 29, _RED)
    return tile


def _write(tile: NDArray[np.uint8], text: str, line: int, color: tuple[int, int, int]) -> None:
    place, font = (2, _SIDE + line), cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(tile, text, place, font, 0.35, color, 1, cv2.LINE_AA)
