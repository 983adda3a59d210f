"""The largest image takes 12 bytes a pixel beyond itself, whatever its format."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

from cxrseg.runtime import Radiograph, Segmenter
from cxrseg.runtime.core import strips
from cxrseg.runtime.writers.writing import write
from helpers.dicom.dicom_images import make, save
from helpers.drawing.phantoms import draw

LIMIT = 1_600_000_000
"""Bytes of a process that does an image of 100 megapixels."""

SIDE = 10_000
MAIN = "from cxrseg.runtime.cli import program; program()"


@pytest.fixture(scope="module")
def large() -> np.ndarray:
    """Return 100 megapixels of 8 bits."""
    image = cv2.resize(draw(1, 1000).image, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    # Compressed, noise is as large as it is in an X-ray.
    noise = np.random.default_rng(0).integers(0, 8, (SIDE, SIDE), dtype=np.uint8)
    return np.bitwise_xor(image, noise)


def dicom(path: Path, pixels: np.ndarray, frame: bytes | None = None, syntax: str = "") -> None:
    bits = 8 * pixels.itemsize
    data = pixels.tobytes() if frame is None else encapsulate([frame])
    sizes = {"Rows": SIDE, "Columns": SIDE, "BitsAllocated": bits, "BitsStored": bits}
    dataset = make(PixelData=data, HighBit=bits - 1, **sizes)
    if frame is not None:
        dataset.file_meta.TransferSyntaxUID = uid.UID(syntax)
        dataset["PixelData"].is_undefined_length = True
    save(dataset, path)


def deep(gray: np.ndarray) -> np.ndarray:
    return gray.astype(np.uint16) * 257


WAYS: dict[str, Callable[[np.ndarray, Path], None]] = {
    "8.png": lambda gray, path: Image.fromarray(gray).save(path, compress_level=1),
    "16.png": lambda gray, path: Image.fromarray(deep(gray)).save(path, compress_level=1),
    "color.jpg": lambda gray, path: Image.fromarray(gray).convert("RGB").save(path),
    "16.tif": lambda gray, path: Image.fromarray(deep(gray)).save(path),
    "lzw.tif": lambda gray, path: Image.fromarray(gray).save(path, compression="tiff_lzw"),
    "float.tif": lambda gray, path: Image.fromarray(gray.astype(np.float32)).save(path),
    "color.bmp": lambda gray, path: Image.fromarray(gray).convert("RGB").save(path),
    "raw.dcm": lambda gray, path: dicom(path, deep(gray)),
    "jpeg.dcm": lambda gray, path: dicom(
        path, gray, imagecodecs.jpeg8_encode(gray, level=90), uid.JPEGBaseline8Bit
    ),
    "jpegls.dcm": lambda gray, path: dicom(
        path, deep(gray), imagecodecs.jpegls_encode(deep(gray)), uid.JPEGLSLossless
    ),
}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="measures a child as POSIX systems do")
@pytest.mark.parametrize("name", WAYS)
def test_100_megapixels_fit(name: str, large: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / name
    WAYS[name](large, path)
    options = ["-o", str(tmp_path / "out"), "--device", "cpu"]
    child = subprocess.Popen([sys.executable, "-c", MAIN, str(path), *options])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    assert 1024 * usage.ru_maxrss < LIMIT


def test_no_step_copies_a_large_image_often(
    model_file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strips, "STRIP_PIXELS", 1 << 16)
    segmenter = Segmenter(model_file(), device="cpu", threads=1)
    pixels = draw(3, (2000, 1500)).image.astype(np.float32) / 255
    radiograph = Radiograph(pixels)
    segmenter.segment(radiograph)  # what it imports is not the image's
    tracemalloc.start()
    try:
        result = segmenter.segment(radiograph)
        _, segmented = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        write(result, radiograph, "x.png", tmp_path)
        _, written = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The mask; then the overlay, its encoded bytes twice, and the mask of a lung.
    assert segmented / pixels.size < 4
    assert written / pixels.size < 10
