"""The one compressed frame of an image, freed of its fragments (PS3.5 A.4), and what it is.

A stream says itself how it was compressed, and how large its picture is. The transfer syntax of the
header is never asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import unpack_from

from pydicom import uid

from cxrseg.runtime.readers.dicom.elements import CUT, ITEM, SEQUENCE_END, WRONG_LENGTH, Encoding
from cxrseg.runtime.readers.jpeg2000 import read_header

NO_TABLE = "its offset table is missing"
WRONG_TABLE = "its offset table is wrong"
MOST_LOST = 0.05
"""Largest share of an image that may be missing at its end."""

NOT_WRAPPED = "its compressed image is not encapsulated"

_ITEM, _SEQUENCE_END = (Encoding(False, True).tag(tag) for tag in (ITEM, SEQUENCE_END))
_DELIMITER = _SEQUENCE_END + bytes(4)

# SOF0 to SOF15 without DHT, JPG and DAC, and JPEG-LS's SOF55.
_FRAME_HEADERS = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_JPEG_LS = 0xF7
_END = b"\xff\xd9"
_TAIL = 4096
_MARKERS = (
    ("JPEG", b"\xff\xd8\xff"),
    ("JPEG 2000", b"\xff\x4f\xff\x51"),
    ("JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n"),
    ("JPEG XL", b"\xff\x0a"),
    ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n"),
)


# Newer than pydicom 3.0.
_JPEG_XL = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
}


class FrameError(Exception):
    """Compressed pixel data that is no frame of an image; the text says why."""


@dataclass(frozen=True)
class Frame:
    """One compressed picture.

    Attributes:
        codec: ``JPEG``, ``JPEG-LS``, ``JPEG 2000``, ``JPEG XL``, ``RLE``, or empty where the stream
            has no marker.
        data: The stream.
        repairs: What was wrong, in words that continue "the file is damaged:".
    """

    codec: str
    data: bytes
    repairs: tuple[str, ...] = ()


def syntax_name(syntax: str) -> str:
    """Return the name of a transfer syntax, empty for a private one: its UID may be any text."""
    known = uid.UID_dictionary.get(syntax)
    return known[0] if known else _JPEG_XL.get(syntax, "")


def marked_as(data: bytes) -> str:
    """Return by its first bytes what a stream is, empty if it has no marker."""
    for codec, marker in _MARKERS:
        if data.startswith(marker):
            if codec == "JPEG" and _jpeg_header(data)[0] == _JPEG_LS:
                return "JPEG-LS"
            return codec
    return ""


def is_stream(data: bytes, size: tuple[int, int]) -> bool:
    """Tell whether Pixel Data without fragments is surely a compressed picture of (height, width).

    A JPEG has a frame header. A JPEG XL code stream has no more than two bytes for a marker, which
    may be a first pixel: its size must be the image's.
    """
    codec = marked_as(data)
    if codec == "JPEG XL":
        return coded_size(Frame(codec, data)) == size
    return bool(codec) and (codec == "JPEG 2000" or _jpeg_header(data)[0] > 0)


def is_wrapped(value: bytes) -> bool:
    """Tell whether Pixel Data is a sequence of fragments."""
    return value.startswith(_ITEM)


def unwrap(value: bytes, is_whole: bool = True) -> Frame:
    """Return the frame in the value of Pixel Data.

    Args:
        value: Fragments, the first of which should be the basic offset table; or the stream alone.
        is_whole: Whether its delimiter was found.

    Raises:
        FrameError: There are several frames, or none.
    """
    if not is_wrapped(value):
        return _known(Frame(marked_as(value), value, (NOT_WRAPPED,)))
    fragments, repairs = _fragments(value, is_whole)
    if not fragments:
        raise FrameError("the compressed image is empty")
    first = fragments[0]
    if marked_as(first) or _is_rle(first) or (len(fragments) == 1 and first):
        repairs.append(NO_TABLE)
    else:
        if first not in (b"", bytes(4)):
            repairs.append(WRONG_TABLE)
        fragments = fragments[1:]
    starts = _count_frames(fragments)
    if starts > 1:
        raise FrameError(f"it holds {starts} frames")
    data = fragments[0] if len(fragments) == 1 else b"".join(fragments)
    if not data:
        raise FrameError("the compressed image is empty")
    return _known(Frame(marked_as(data), data, tuple(repairs)))


def _count_frames(fragments: list[bytes]) -> int:
    """Return how many fragments begin a picture; of JPEG XL they must tell the first one's size."""
    if not fragments or not (codec := marked_as(fragments[0])):
        return 1
    size = coded_size(Frame(codec, fragments[0]))
    return sum(
        marked_as(fragment) == codec
        and (codec != "JPEG XL" or coded_size(Frame(codec, fragment)) == size)
        for fragment in fragments
    )


def _fragments(value: bytes, is_whole: bool) -> tuple[list[bytes], list[str]]:
    fragments, at = [], 0
    while value[at : at + 4] == _ITEM and at + 8 <= len(value):
        end = at + 8 + unpack_from("<I", value, at + 4)[0]
        if end > len(value):
            fragments.append(value[at + 8 :])
            return fragments, [WRONG_LENGTH if is_whole else CUT]
        following = value[end : end + 8]
        is_end = not any(following) or _DELIMITER.startswith(following)
        if not is_end and not following.startswith(_ITEM):
            # The length is too small: up to the end, or what follows would be lost.
            fragments.append(value[at + 8 :])
            return fragments, [WRONG_LENGTH]
        fragments.append(value[at + 8 : end])
        at = end
    return fragments, []


def _known(frame: Frame) -> Frame:
    """Return the frame with RLE told by its header, where no marker tells anything."""
    if not frame.codec and _is_rle(frame.data):
        return Frame("RLE", frame.data, frame.repairs)
    if frame.codec.startswith("JPEG") and frame.codec != "JPEG XL":
        return _ended(frame)
    return frame


def _is_rle(data: bytes) -> bool:
    """Tell whether it is RLE by its header (PS3.5 G.5): a count of segments, and their offsets."""
    if len(data) < 64:
        return False
    count, *offsets = unpack_from("<16I", data)
    used, unused = offsets[:count], offsets[count:]
    return 0 < count <= 15 and used == sorted(used) and used[0] == 64 and not any(unused)


def _ended(frame: Frame) -> Frame:
    """Return a JPEG, JPEG-LS or JPEG 2000 stream with its end, which may be missing."""
    data = frame.data
    if _END in data[-_TAIL:]:
        return frame
    # Half of the marker may be there.
    data = data.removesuffix(_END[:1])
    if frame.codec == "JPEG 2000":
        missing = _end_of_tiles(data) - len(data)
        if missing > MOST_LOST * len(data):
            raise FrameError("much of the compressed image is missing")
        data += bytes(max(0, missing))
    return Frame(frame.codec, data + _END, (*frame.repairs, CUT))


def _end_of_tiles(data: bytes) -> int:
    """Return where the last tile-part of a JPEG 2000 code stream ends, by their headers."""
    at = data.find(b"\xff\x90")
    while 0 <= at <= len(data) - 12 and data[at : at + 2] == b"\xff\x90":
        length = int.from_bytes(data[at + 6 : at + 10], "big")
        if length < 14:
            break
        at += length
    return max(at, 0)


def coded_size(frame: Frame) -> tuple[int, int] | None:
    """Return (height, width) by the stream's own header, None where it tells none."""
    data = frame.data
    if frame.codec in ("JPEG", "JPEG-LS"):
        _, height, width, _ = _jpeg_header(data)
        return (height, width) if height else None
    if frame.codec == "JPEG 2000":
        picture = read_header(data)
        return (picture.height, picture.width) if picture else None
    if frame.codec == "JPEG XL":
        return _jpeg_xl_size(data)
    return None


def _jpeg_xl_size(data: bytes) -> tuple[int, int] | None:
    """Read the SizeHeader of ISO/IEC 18181-1, alone or in a container."""
    start = next((at for at in _code_streams(data) if data[at : at + 2] == b"\xff\x0a"), None)
    if start is None:
        return None
    bits, used = int.from_bytes(data[start + 2 : start + 18], "little"), 0

    def take(count: int) -> int:
        nonlocal used
        used += count
        return (bits >> (used - count)) & ((1 << count) - 1)

    def side(small: int) -> int:
        return 8 * (1 + take(5)) if small else 1 + take((9, 13, 18, 30)[take(2)])

    small = take(1)
    height = side(small)
    up, down = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[take(3)]
    return height, height * up // down if up else side(small)


def _code_streams(data: bytes) -> tuple[int, ...]:
    """Return where a JPEG XL code stream may begin: at once, or in a box of the container."""
    return 0, data.find(b"jxlc") + 4, data.find(b"jxlp") + 8


def precision(frame: Frame) -> int:
    """Return bits per value by the header of a JPEG or JPEG-LS stream, 0 where it tells none."""
    return _jpeg_header(frame.data)[3]


def _jpeg_header(data: bytes) -> tuple[int, int, int, int]:
    """Return marker, height, width and precision of a JPEG's frame header, zeros without one."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAME_HEADERS:
            height, width = unpack_from(">2H", data, at + 5)
            return marker, height, width, data[at + 4]
        # Any number of 0xFF may fill the space before a marker.
        at += 1 if marker == 0xFF else 2 + unpack_from(">H", data, at + 2)[0]
    return 0, 0, 0, 0
