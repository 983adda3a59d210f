"""Decompressing one frame with imagecodecs.

Of its decoders these survive damaged data: libjpeg-turbo, CharLS, OpenJPEG, libjxl, and its own for
RLE. Their licenses are permissive.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.readers.dicom.frame import Frame, FrameError, coded_size, precision


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
    import imagecodecs

    if frame.codec == "RLE":
        return _decode_rle(frame.data, rows, columns, samples)
    size = coded_size(frame)
    if size is None:
        raise FrameError("the compressed image is damaged")
    if size != (rows, columns):
        header = f"{columns} x {rows} pixels of the header"
        raise FrameError(f"the compressed image is not of the {header}")
    decoders = {
        # libjpeg-turbo alone: jpeg_decode goes on to a decoder that crashes on damaged tables.
        "JPEG": imagecodecs.jpeg8_decode,
        "JPEG-LS": imagecodecs.jpegls_decode,
        "JPEG 2000": imagecodecs.jpeg2k_decode,
        "JPEG XL": imagecodecs.jpegxl_decode,
    }
    try:
        image: NDArray[Any] = decoders[frame.codec](frame.data)
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


def _decode_rle(data: bytes, rows: int, columns: int, samples: int) -> NDArray[Any]:
    """Decode PS3.5 G: each byte of each sample is a segment, the highest byte first."""
    import imagecodecs

    segments = int.from_bytes(data[:4], "little")
    if segments % samples or segments // samples not in (1, 2, 4):
        samples = 3 if segments == 3 else 1
    width = segments // samples
    if segments % samples or width not in (1, 2, 4):
        raise FrameError("the compressed image is damaged (RLE)")
    dtype = np.dtype(f"<u{width}")
    try:
        plain = imagecodecs.dicomrle_decode(data, dtype, out=rows * columns * segments)
    except Exception as error:
        raise FrameError("the compressed image is damaged (RLE)") from error
    planes = np.frombuffer(plain, dtype).reshape(samples, rows, columns)
    return planes[0] if samples == 1 else np.moveaxis(planes, 0, 2)
