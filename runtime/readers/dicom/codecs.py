"""Decompressing one frame with imagecodecs.

Of its decoders these survive damaged data: libjpeg-turbo, CharLS, OpenJPEG, libjxl, and its own for
RLE. Their licenses are permissive.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from struct import unpack_from
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.readers.dicom.elements import CUT
from cxrseg.runtime.readers.dicom.frame import (
    MOST_LOST,
    Frame,
    FrameError,
    coded_size,
    precision,
)
from cxrseg.runtime.readers.jpeg import check_scans
from cxrseg.runtime.readers.jpeg2000 import check_parts

_RUN = 128


def decode(frame: Frame, rows: int, columns: int, samples: int) -> NDArray[Any]:
    """Decompress a frame.

    Args:
        frame: The stream.
        rows: Height in pixels by the DICOM header; a stream of another size is refused before its
            decoder allocates memory.
        columns: Width.
        samples: Values per pixel by the header; counts for RLE alone, which does not tell.

    Returns:
        [H, W], or [H, W, C] in RGB: any integer type, signed where the stream says so.

    Raises:
        FrameError: It cannot be decoded.
    """
    if find_spec("imagecodecs") is None:
        raise FrameError(f"{frame.codec} needs the library imagecodecs, which is missing")
    if frame.codec == "RLE":
        return _decode_rle(frame, rows, columns, samples)
    import imagecodecs

    size = coded_size(frame)
    if size is None:
        raise FrameError("the compressed image is damaged")
    if size != (rows, columns):
        header = f"{columns} x {rows}"
        raise FrameError(f"the compressed image has another size than the header says ({header})")
    _check_work(frame, rows * columns)
    decoders: dict[str, Callable[[Frame, tuple[int, int]], NDArray[Any]]] = {
        # libjpeg-turbo alone: jpeg_decode goes on to a decoder that crashes on damaged tables.
        "JPEG": lambda frame, _: imagecodecs.jpeg8_decode(frame.data),
        "JPEG-LS": _decode_jpeg_ls,
        "JPEG 2000": lambda frame, _: imagecodecs.jpeg2k_decode(frame.data),
        # The first picture alone: of an animation a small file may hold thousands.
        "JPEG XL": lambda frame, _: imagecodecs.jpegxl_decode(frame.data, index=0),
    }
    try:
        image = decoders[frame.codec](frame, size)
    # Each has errors of its own.
    except Exception as error:
        raise FrameError(f"the compressed image is damaged ({frame.codec})") from error
    if image.shape[:2] != (rows, columns) or image.ndim > 3 or image.dtype.kind not in "iu":
        raise FrameError(f"the compressed image is of a kind that is not supported ({frame.codec})")
    if image.ndim == 3 and image.shape[2] != 3:
        if frame.codec == "JPEG" or image.shape[2] not in (2, 4):
            raise FrameError(f"{image.shape[2]} values per pixel are not supported")
        # What comes last is transparency.
        image = image[..., 0] if image.shape[2] == 2 else image[..., :3]
    bits = precision(frame)
    if frame.codec == "JPEG" and 8 < bits < 16:
        # Where the end of a lossless stream is missing, sums run over.
        image &= image.dtype.type(2**bits - 1)
    return image


def _check_work(frame: Frame, pixels: int) -> None:
    """Refuse a stream that is small and takes a decoder minutes or gigabytes.

    Raises:
        FrameError: It is one.
    """
    try:
        if frame.codec == "JPEG":
            check_scans(frame.data, pixels)
        elif frame.codec == "JPEG 2000":
            check_parts(frame.data)
    except ValueError as error:
        raise FrameError(str(error)) from error


def _decode_jpeg_ls(frame: Frame, size: tuple[int, int]) -> NDArray[Any]:
    """Decode JPEG-LS; of a stream without its end, the rows that are there."""
    import imagecodecs

    if CUT not in frame.repairs:
        return np.asarray(imagecodecs.jpegls_decode(frame.data))
    image = np.zeros(size, np.uint8 if precision(frame) <= 8 else np.uint16)
    with suppress(imagecodecs.JpeglsError):
        imagecodecs.jpegls_decode(frame.data, out=image)
    there = np.flatnonzero(image.any(axis=1))[-1] + 1
    image[there:] = image[there - 1]
    return image


def _decode_rle(frame: Frame, rows: int, columns: int, samples: int) -> NDArray[Any]:
    """Decode PS3.5 G: each byte of each sample is a segment, the highest byte first."""
    count, *offsets = unpack_from("<16I", frame.data)
    if count % samples or count // samples not in (1, 2, 4):
        samples = 3 if count == 3 else 1
    width = count // samples
    if count % samples or width not in (1, 2, 4):
        raise FrameError("the compressed image is damaged (RLE)")
    ends = [*offsets[1:count], len(frame.data)]
    out = np.empty((samples, rows * columns, width), np.uint8)
    for number, (start, end) in enumerate(zip(offsets, ends, strict=False)):
        is_cut = bool(frame.repairs) and end == len(frame.data)
        sample, byte = divmod(number, width)
        # Of the values' bytes, little endian, the highest comes first.
        out[sample, :, width - 1 - byte] = _segment(frame.data[start:end], rows * columns, is_cut)
    planes = out.view(f"<u{width}").reshape(samples, rows, columns)
    return planes[0] if samples == 1 else np.moveaxis(planes, 0, 2)


def _segment(data: bytes, size: int, is_cut: bool) -> NDArray[np.uint8]:
    """Return the bytes of one segment, with zeros where its end is missing."""
    import imagecodecs

    # The last run may be cut, too; each is of at most 128 bytes.
    data, room = (data + bytes(_RUN), size + 2 * _RUN) if is_cut else (data, size + 1)
    try:
        plain = np.frombuffer(imagecodecs.packbits_decode(data, out=room), np.uint8)
    # Its errors have no common name in all versions.
    except Exception as error:
        raise FrameError("the compressed image is damaged (RLE)") from error
    if len(plain) < size * (1 - MOST_LOST if is_cut else 1):
        raise FrameError("much of the compressed image is missing")
    return np.concatenate([plain, np.zeros(max(0, size - len(plain)), np.uint8)])[:size]
