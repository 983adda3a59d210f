"""Decompressing DICOM pixel data through pydicom.

pydicom's own use of Pillow does JPEG Baseline and JPEG 2000; imagecodecs (libjpeg-turbo, CharLS,
PackBits) does the others. Both survive damaged data, and their licenses are permissive.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
from pydicom import uid
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import DecodeRunner

_NAME = "cxrseg"

# pydicom asks a plugin for this name.
DECODER_DEPENDENCIES = {
    uid.JPEGExtended12Bit: ("imagecodecs",),
    uid.JPEGLossless: ("imagecodecs",),
    uid.JPEGLosslessSV1: ("imagecodecs",),
    uid.JPEGLSLossless: ("imagecodecs",),
    uid.JPEGLSNearLossless: ("imagecodecs",),
    uid.RLELossless: ("imagecodecs",),
}
"""Transfer syntaxes that this module decodes -> the library needed."""

_PILLOW = (uid.JPEGBaseline8Bit, uid.JPEG2000Lossless, uid.JPEG2000)
_NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)

# SOF0 to SOF15 without DHT, JPG and DAC, and JPEG-LS's SOF55.
_FRAME_HEADERS = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})


class UndecodableError(Exception):
    """Pixel data of a kind that cannot be decoded here; the text says why."""


def plugin_for(syntax: uid.UID) -> str:
    """Return pydicom's name of the decoder to use, empty where nothing is compressed.

    pydicom would try whatever else is installed, libraries among it that end the process on
    damaged data; named, the one decoder is used.

    Raises:
        UndecodableError: There is no decoder for this transfer syntax.
    """
    if syntax in _NATIVE:
        return ""
    if syntax in _PILLOW:
        return "pillow"
    if syntax not in DECODER_DEPENDENCIES:
        raise UndecodableError(f"its compression ({syntax.name}) is not supported")
    if not is_available(syntax):
        raise UndecodableError(f"{syntax.name} needs the library imagecodecs, which is missing")
    decoder = get_decoder(syntax)
    if _NAME not in decoder.available_plugins:
        decoder.add_plugin(_NAME, (__name__, "decode_frame"))
    return _NAME


def is_available(syntax: str) -> bool:
    """Tell whether `decode_frame` can decode this transfer syntax; pydicom asks."""
    return syntax in DECODER_DEPENDENCIES and find_spec("imagecodecs") is not None


def check_coded_size(data: bytes, rows: int, columns: int) -> None:
    """Refuse encapsulated pixel data whose own header has another size than the DICOM header.

    Decoders allocate memory by the former.

    Args:
        data: Encapsulated pixel data of one frame.
        rows: Height in pixels, by the DICOM header.
        columns: Width.

    Raises:
        UndecodableError: The sizes differ, or the compressed image has no header.
    """
    frame = get_frame(data, 0, number_of_frames=1)
    size = _coded_size(frame)
    if size is None:
        raise UndecodableError("the compressed image is damaged")
    if size != (rows, columns):
        header = f"{columns} x {rows} pixels of the header"
        raise UndecodableError(f"the compressed image is not of the {header}")


def _coded_size(frame: bytes) -> tuple[int, int] | None:
    """Return (height, width) of a JPEG, JPEG-LS or JPEG 2000 stream."""

    def number(offset: int, size: int) -> int:
        return int.from_bytes(frame[offset : offset + size], "big")

    if frame[:2] == b"\xff\xd8":
        at = 2
        while at + 9 <= len(frame) and frame[at] == 0xFF:
            if frame[at + 1] in _FRAME_HEADERS:
                return number(at + 5, 2), number(at + 7, 2)
            # Any number of 0xFF may fill the space before a marker.
            at += 1 if frame[at + 1] == 0xFF else 2 + number(at + 2, 2)
        return None
    # SIZ directly follows SOC, itself at the beginning or inside a JP2 file.
    start = frame.find(b"\xff\x4f\xff\x51")
    if start < 0 or start + 24 > len(frame):
        return None
    width, height, left, top = (number(start + 8 + 4 * i, 4) for i in range(4))
    return height - top, width - left


def decode_frame(frame: bytes, runner: DecodeRunner) -> bytes:
    """Decode one frame, as a plugin of pydicom.

    Args:
        frame: The compressed frame.
        runner: pydicom's description of the image; learns how the result is laid out.

    Returns:
        The samples, 8, 16 or 32 bits each, little endian, planar only for RLE.
    """
    import imagecodecs

    syntax = runner.transfer_syntax
    if syntax == uid.RLELossless:
        size = int(runner.frame_length(unit="bytes"))
        runner.set_option("planar_configuration", 1)
        dtype = np.dtype(f"<u{runner.bits_allocated // 8}")
        return bytes(imagecodecs.dicomrle_decode(frame, dtype, out=size))
    if syntax in uid.JPEGLSTransferSyntaxes:
        image = imagecodecs.jpegls_decode(frame)
    else:
        # libjpeg-turbo alone: jpeg_decode goes on to a decoder that crashes on damaged tables.
        image = imagecodecs.jpeg8_decode(frame)
    runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", 8 * image.itemsize)
    return bytes(image.tobytes())
