"""Masks of one pair of lungs as programs save them, and the same damaged."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from numpy.typing import NDArray
from PIL import Image

from helpers.drawing import phantoms
from helpers.fuzz.damage import BYTE, damaged
from helpers.fuzz.pngs import changed_png
from helpers.fuzz.tiffs import changed_tiff

PHANTOM = phantoms.draw(2, (72, 64))
"""An X-ray and its label map, which all masks here show."""

_GRAYS = st.one_of(st.sampled_from([0, 1, 2, 3, 64, 127, 128, 200, 254, 255]), BYTE)
_DEEP = st.one_of(_GRAYS, st.sampled_from([256, 257, 1000, 32767, 32768, 65535]))
_COLORS = st.one_of(
    st.sampled_from([(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)]),
    st.tuples(BYTE, BYTE, BYTE),
)


def _threes(values: SearchStrategy[Any], usual: list[list[Any]]) -> SearchStrategy[list[Any]]:
    """Return a strategy of values for background, right and left lung: usual ones half the time."""
    drawn = st.lists(values, min_size=3, max_size=3)
    one = values.map(lambda value: [usual[0][0], value, value])
    return st.one_of(st.sampled_from(usual), one, drawn)


_THREE_GRAYS = _threes(_GRAYS, [[0, 1, 2], [0, 255, 255], [0, 1, 1], [0, 128, 255], [255, 0, 0]])
_THREE_DEEP = _threes(_DEEP, [[0, 1, 2], [0, 65535, 65535], [0, 255, 255], [0, 32768, 65535]])
_THREE_COLORS = _threes(
    _COLORS,
    [
        [(0, 0, 0), (255, 255, 255), (255, 255, 255)],
        [(0, 0, 0), (255, 0, 0), (255, 0, 0)],
        [(0, 0, 0), (255, 0, 0), (0, 0, 255)],
    ],
)
_KINDS = ["gray", "gray", "deep", "float", "bits", "palette", "color", "alpha", "gray alpha"]
_FORMATS = ["PNG", "PNG", "PNG", "TIFF", "BMP", "JPEG"]


def _painted(values: list[Any], kind: Any = np.uint8) -> NDArray[Any]:
    """Return the label map with a value, or a color, for background, right and left lung."""
    return np.array(values, kind)[PHANTOM.mask]


@st.composite
def _pictures(draw: DrawFn) -> Image.Image:
    """Draw a picture of the lungs: three values, or as many colors, or degrees of transparency."""
    kind = draw(st.sampled_from(_KINDS))
    three = draw(_THREE_GRAYS)
    if kind == "gray":
        return Image.fromarray(_painted(three))
    if kind == "deep":
        return Image.fromarray(_painted(draw(_THREE_DEEP), np.uint16))
    if kind == "float":
        return Image.fromarray(_painted([value / 255 for value in three], np.float32))
    if kind == "bits":
        return Image.fromarray(_painted([value > 100 for value in three], np.bool_))
    colors = draw(_THREE_COLORS)
    if kind == "palette":
        picture = Image.fromarray(_painted(three)).convert("P")
        palette = bytearray(768)
        for index, color in zip(three, colors, strict=True):
            palette[3 * index : 3 * index + 3] = bytes(color)
        picture.putpalette(bytes(palette))
        return picture
    if kind == "color":
        return Image.fromarray(_painted(colors))
    alphas = draw(st.sampled_from([[0, 255, 255], [255, 255, 255], [0, 254, 255], three]))
    if kind == "alpha":
        return Image.fromarray(_painted([(*c, a) for c, a in zip(colors, alphas, strict=True)]))
    pairs = [*zip(three, alphas, strict=True)]
    return Image.fromarray(_painted(pairs), "LA")


_TURNS = {
    **{2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180},
    **{4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE},
    **{6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270},
}
"""Exif orientation -> how the pixels are stored so that a viewer shows them upright."""


@st.composite
def drawn_masks(draw: DrawFn) -> bytes:
    """Draw a sound file that shows the lungs, upright as a viewer shows it."""
    picture = draw(_pictures())
    kind = draw(st.sampled_from(_FORMATS))
    options: dict[str, Any] = {"quality": 90} if kind == "JPEG" else {}
    turn = draw(st.sampled_from([1, 1, *_TURNS]))
    if turn > 1 and kind != "BMP":
        exif = Image.Exif()
        exif[274] = turn
        picture, options["exif"] = picture.transpose(_TURNS[turn]), exif
    if kind == "TIFF":
        options["compression"] = draw(st.sampled_from([None, "tiff_lzw", "tiff_deflate"]))
    for mode in (picture.mode, "RGB"):
        buffer = io.BytesIO()
        try:
            picture.convert(mode).save(buffer, kind, **options)
        # Not every format has every kind of pixels.
        except (OSError, SystemError):
            continue
        return buffer.getvalue()
    raise AssertionError(f"{picture.mode} as {kind}")


@st.composite
def damaged_masks(draw: DrawFn) -> bytes:
    """Draw a mask file whose structure is changed."""
    content = draw(drawn_masks())
    if content.startswith(b"\x89PNG"):
        return draw(changed_png(content))
    if content.startswith((b"II*", b"MM\0")):
        return draw(changed_tiff(content))
    return draw(damaged(content, 3))
