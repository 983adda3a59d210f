"""The stored values of a DICOM image: decoded, whatever its header says of compression and bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset

from cxrseg.runtime.readers.dicom.codecs import decode
from cxrseg.runtime.readers.dicom.elements import CUT, NO_END, WRONG_LENGTH
from cxrseg.runtime.readers.dicom.frame import (
    MOST_LOST,
    FrameError,
    is_stream,
    is_wrapped,
    syntax_name,
    unwrap,
)
from cxrseg.runtime.readers.dicom.header import text
from cxrseg.runtime.readers.dicom.source import DicomFile
from cxrseg.runtime.readers.dicom.tables import numbers, whole_number

_NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)

_SAMPLE = 1 << 20


@dataclass(frozen=True)
class Stored:
    """Decoded stored values.

    Attributes:
        values: [H, W], or [H, W, C]: RGB, or gray in three equal channels. Any integer type.
        bits: How many bits of each are used.
        codec: How they were compressed, empty where they were not.
        repairs: What was wrong, in words that continue "the file is damaged:".
    """

    values: NDArray[Any]
    bits: int
    codec: str
    repairs: tuple[str, ...]


def read_stored(file: DicomFile) -> Stored:
    """Decode the image of a DICOM file.

    Raises:
        FrameError: It cannot be decoded; the text says why.
        HeaderError: The header does not tell its size.
    """
    dataset = file.dataset
    rows, columns = whole_number(dataset, "Rows"), whole_number(dataset, "Columns")
    samples = whole_number(dataset, "SamplesPerPixel", 1)
    layout = _Layout(rows, columns, samples, whole_number(dataset, "BitsAllocated", 0) / 8)
    data, length = file.pixels, file.stated
    repairs: tuple[str, ...] = ()
    wrapped = is_wrapped(data)
    # What has the length of plain pixels is no stream, whatever it begins with.
    is_plain = length in layout.sizes and (file.syntax in _NATIVE or not wrapped)
    if not is_plain and (wrapped or is_stream(data, (rows, columns))):
        frame = unwrap(data, NO_END not in file.repairs)
        if frame.codec:
            values = decode(frame, rows, columns, samples)
            if CUT in frame.repairs:
                _bound_end(values)
            return _with_bits(dataset, values, frame.codec, frame.repairs)
        data, length, repairs = frame.data, None, frame.repairs
    if file.syntax and file.syntax not in _NATIVE and len(data) not in layout.sizes:
        raise FrameError(_unknown(file.syntax))
    is_halved = photometric_of(dataset) == "YBR_FULL_422" and (samples, layout.width) == (3, 1)
    if is_halved and len(data) in layout.lengths(2):
        return _with_bits(dataset, _half_chroma(data, rows, columns), "", repairs)
    layout = layout.of(len(data) if length is None else length)
    if len(data) < layout.size:
        data, repairs = layout.filled(data), (*repairs, CUT)
    elif length is not None and length < layout.size:
        repairs = (*repairs, WRONG_LENGTH)
    return _with_bits(dataset, layout.values(data, file), "", repairs)


def photometric_of(dataset: Dataset) -> str:
    """Return the photometric interpretation, upper case; MONOCHROME2 where there is none."""
    return text(dataset, "PhotometricInterpretation") or "MONOCHROME2"


def _unknown(syntax: str) -> str:
    """Say why a stream without a marker cannot be read; the syntax may be any text."""
    name = syntax_name(syntax) or "a private one"
    if "JPEG" in name or "RLE" in name:
        return f"the compressed image is damaged ({name})"
    return f"its compression ({name}) is not supported"


@dataclass(frozen=True)
class _Layout:
    """How values that are not compressed lie: `width` bytes each."""

    rows: int
    columns: int
    samples: int
    width: float

    @property
    def size(self) -> int:
        """Bytes of the image."""
        return int(self.rows * self.columns * self.samples * self.width)

    @property
    def sizes(self) -> set[int]:
        """Lengths that the image may have, an even number of bytes included."""
        return self.lengths(self.samples * self.width)

    def lengths(self, bytes_per_pixel: float) -> set[int]:
        size = int(self.rows * self.columns * bytes_per_pixel)
        return {size, size + size % 2}

    def of(self, length: int) -> _Layout:
        """Return the layout that a length speaks for: the header's, unless another fits exactly.

        Raises:
            FrameError: Neither does, and much is missing.
        """
        if self.width in (1, 2, 4) and length in self.sizes:
            return self
        for samples, width in ((1, 1), (1, 2), (3, 1), (1, 4), (3, 2)):
            if length in self.lengths(samples * width):
                return _Layout(self.rows, self.columns, samples, width)
        if self.width not in (1, 2, 4):
            raise FrameError(f"{8 * self.width:.0f} bits per value are not supported")
        return self

    def filled(self, data: bytes) -> bytes:
        """Return data whose end is missing, filled with the row above.

        Raises:
            FrameError: Too much is missing.
        """
        missing = self.size - len(data)
        row = self.size // self.rows
        if missing > MOST_LOST * self.size or len(data) < row:
            raise FrameError(f"its pixels are damaged: {len(data)} of {self.size} bytes are there")
        return data + (data[-row:] * (missing // row + 1))[:missing]

    def values(self, data: bytes, file: DicomFile) -> NDArray[Any]:
        order = "<" if file.encoding.little else ">"
        flat = np.frombuffer(data, f"{order}u{self.width:.0f}", count=int(self.size / self.width))
        if not file.encoding.little:
            flat = flat.astype(flat.dtype.newbyteorder("="))
        if self.samples == 1:
            return flat.reshape(self.rows, self.columns)
        by_pixel = flat.reshape(self.rows, self.columns, self.samples)
        by_plane = np.moveaxis(flat.reshape(self.samples, self.rows, self.columns), 0, 2)
        if numbers(file.dataset, "PlanarConfiguration") == (1,):
            by_pixel, by_plane = by_plane, by_pixel
        # Of a gray image in colors the channels are equal, whatever the header says of their order.
        return by_plane if _is_gray(by_plane) and not _is_gray(by_pixel) else by_pixel


def _is_gray(colors: NDArray[Any]) -> bool:
    return all(np.array_equal(colors[..., 0], colors[..., i]) for i in range(1, colors.shape[2]))


def _half_chroma(data: bytes, rows: int, columns: int) -> NDArray[np.uint8]:
    """Return YBR_FULL_422 values (PS3.3 C.7.6.3.1.2), two pixels of which share their color."""
    pairs = np.frombuffer(data, np.uint8, count=2 * rows * columns).reshape(-1, 4)
    full = np.stack([pairs[:, (0, 2, 3)], pairs[:, (1, 2, 3)]], axis=1)
    return full.reshape(rows, columns, 3)


def _bound_end(values: NDArray[Any]) -> None:
    """Keep the end of an image that its decoder made up within the gray values of the rest.

    Raises:
        FrameError: Much was made up: rows repeat.
    """
    most = int(MOST_LOST * len(values)) + 1
    end = values[-most:]
    if (end[1:] == end[:-1]).all():
        raise FrameError("much of the compressed image is missing")
    np.clip(end, values[:-most].min(), values[:-most].max(), out=end)


def _with_bits(
    dataset: Dataset, values: NDArray[Any], codec: str, repairs: tuple[str, ...]
) -> Stored:
    """Return what the stored bits stand for (PS3.5 8.1.1), signed where the header says so."""
    width = 8 * values.itemsize
    stored = whole_number(dataset, "BitsStored", width)
    stored = stored if 0 < stored <= width else width
    used = int(np.bitwise_or.reduce(values, axis=None))
    if values.dtype.kind == "i" or values.ndim == 3:
        # A stream that tells signs tells bits, and so do colors.
        bits = max(stored, used.bit_length()) if values.dtype.kind == "u" else stored
        return Stored(values, bits, codec, repairs)
    shift = _shift(dataset, used, stored, width)
    signed = numbers(dataset, "PixelRepresentation") == (1,)
    if signed and codec:
        signed = _is_signed(values, max(stored, (used >> shift).bit_length()), shift, codec)
    cut = _cut(values, stored, shift, signed)
    if used >> (stored + shift):
        whole = values.view(values.dtype.str.replace("u", "i")) if signed else values
        bits = used.bit_length()
        if not shift and _is_smoother(whole, bits, cut, stored):
            return Stored(whole, bits, codec, repairs)
    return Stored(cut, stored, codec, repairs)


def _is_signed(values: NDArray[Any], stored: int, shift: int, codec: str) -> bool:
    """Tell whether decoded unsigned values are two's complements, as the header says.

    The smoother image is right. Where both are alike, a JPEG 2000 stream is believed, which tells
    signs (ITU-T T.800, A.5.1); the others know none, and the header is.
    """
    plain = _cut(values, stored, shift, signed=False)
    complement = _cut(values, stored, shift, signed=True)
    if codec == "JPEG 2000":
        return _is_smoother(complement, stored, plain, stored)
    return not _is_smoother(plain, stored, complement, stored)


def _shift(dataset: Dataset, used: int, stored: int, width: int) -> int:
    """Return how many bits the values lie too high: by High Bit, unless they contradict it."""
    shift = whole_number(dataset, "HighBit", stored - 1) + 1 - stored
    shift = shift if 0 <= shift <= width - stored else 0
    unused = width - stored
    if used < 1 << stored and used & ((1 << shift) - 1):
        return 0
    return unused if used and not used & ((1 << unused) - 1) and used >> stored else shift


def _cut(values: NDArray[Any], stored: int, shift: int, signed: bool) -> NDArray[Any]:
    """Return the stored bits alone, and their sign in all bits above."""
    above = 8 * values.itemsize - stored - shift
    if not signed and not above:
        return values >> shift if shift else values
    kind = "i" if signed else "u"
    out: NDArray[Any] = np.left_shift(values, above).view(f"{kind}{values.itemsize}")
    out >>= above + shift
    return out


def _is_smoother(whole: NDArray[Any], bits: int, cut: NDArray[Any], stored: int) -> bool:
    """Tell whether all bits make the smoother image, so that more are stored than the header says.

    Where the bits above change from pixel to pixel, the cut values of such an image jump back; if
    they hold something else, an overlay, the whole ones jump. Jumps count by the range of values.
    """
    step = max(1, whole.size // _SAMPLE)
    a, b = (values[::step].astype(np.int64) for values in (whole, cut))
    differs = np.diff(a - b, axis=1) != 0
    if not differs.any():
        return False
    jump_a, jump_b = (np.median(np.abs(np.diff(x, axis=1)[differs])) for x in (a, b))
    return bool(jump_a / 2**bits < jump_b / 2**stored)
