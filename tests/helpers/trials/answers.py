"""What may come of a file that nobody vouches for: an answer that holds, or a refusal."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar
from zlib import crc32

import numpy as np

import cxrseg.runtime
from cxrseg.runtime import CxrsegError, Radiograph, Segmentation, Segmenter, write
from cxrseg.runtime.writers.paths import Format
from helpers.models.tiny import TinyModel, build_model

Answer = TypeVar("Answer")


def asked(call: Callable[[], Answer]) -> Answer | None:
    """Return what a call gives, or None where it refuses in a plain line."""
    try:
        return call()
    except CxrsegError as error:
        check_refusal(error)
        return None


_OURS = Path(cxrseg.runtime.__file__).parents[1]
_DEFECTS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError)


def check_refusal(error: CxrsegError) -> None:
    """Check that a refusal is one line that helps, and hides no defect nor a lack of memory."""
    if isinstance(error.__cause__, _DEFECTS):
        raised_in = traceback.extract_tb(error.__cause__.__traceback__)[-1].filename
        # Libraries may raise what they like.
        assert not Path(raised_in).is_relative_to(_OURS), error
    text = str(error)
    assert "\n" not in text and len(text) < 2000, text
    assert error.cause and error.remedy, text
    assert "unexpected failure" not in text and "not enough memory" not in text, text


def check_radiograph(radiograph: Radiograph) -> None:
    """Check that an image is what all readers promise."""
    pixels = radiograph.pixels
    assert pixels.dtype == np.float32 and pixels.ndim == 2, (pixels.dtype, pixels.shape)
    assert pixels.size <= 100_000_000
    assert np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1


def check_segmentation(result: Segmentation, size: tuple[int, int]) -> None:
    """Check that a mask is one of an image of this size."""
    assert result.mask.dtype == np.uint8 and result.mask.shape == size, result.mask.shape
    known = {0, *(label.value for label in result.labels)}
    assert set(np.unique(result.mask)) <= known
    assert all(0 <= pixels <= result.mask.size for pixels in result.area_px.values())


@cache
def tiny_segmenter() -> Segmenter:
    """Return a segmenter with the tiny model, for this process."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "tiny.onnx")
        path.write_bytes(build_model(TinyModel()))
        return Segmenter(path, device="cpu", threads=1)


@contextmanager
def nothing_half_written(folder: Path) -> Iterator[list[Path]]:
    """Check that a folder holds in the end what it held, and what the block names, no more."""
    before = set(folder.rglob("*"))
    written: list[Path] = []
    yield written
    odd = set(folder.rglob("*")) ^ (before | set(written))
    assert not odd, f"half done: {odd}"


def check_outputs(
    radiograph: Radiograph, source: Path, content: bytes, formats: tuple[Format, ...]
) -> None:
    """Segment an image and write all files of it, for every eighth content, drawn by its sum."""
    if crc32(content) % 8:
        return
    result = asked(lambda: tiny_segmenter().segment(radiograph, source.name))
    if result is None:
        return
    check_segmentation(result, radiograph.size)
    with nothing_half_written(source.parent) as written:
        outputs = asked(lambda: write(result, radiograph, source, formats=formats))
        written += outputs or []
