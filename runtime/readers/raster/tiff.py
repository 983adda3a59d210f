"""TIFF files: what their first directory says, and their numbers of any type.

libtiff decodes numbers of whole bytes, through imagecodecs: Pillow takes some types for others. It
is left the rest: single bits, packed ones, palettes, and colors that need a conversion.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.radiograph import MAX_PIXELS, check_size
from cxrseg.runtime.readers.raster.picture import Picture, decode, refuse_pages
from cxrseg.runtime.terminal.quiet import quiet

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_ORIENTATION, _SAMPLES, _PLANAR, _EXTRA, _FORMAT = 274, 277, 284, 338, 339
_TAGS = {
    *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC),
    *(_ORIENTATION, _SAMPLES, _PLANAR, _EXTRA, _FORMAT),
}
_PER_SAMPLE = {_BITS, _EXTRA, _FORMAT}
_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
"""Type of a tag's values that are integers -> that of `struct`."""

_MAX_BYTES = 8 * MAX_PIXELS
"""Largest size of decoded samples, in bytes."""

_MAX_ENTRIES = 65535
_MAX_SAMPLES = 16

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_SEPARATE = 2
_OLD_JPEG, _JPEG = 6, 7
_PREMULTIPLIED, _ALPHA = 1, 2
_KINDS = {2: "signed integers", 3: "floats", 5: "complex integers", 6: "complex numbers"}

_NOT_READ = {
    **dict.fromkeys((33003, 33004, 33005, 34712), "JPEG 2000"),
    **dict.fromkeys((22610, 34934), "JPEG XR"),
    **dict.fromkeys((50002, 52546), "JPEG XL"),
}
"""Compression that libtiff has no decoder for -> its name."""

_MODES = {"uint8": "L", "uint16": "I;16", "int32": "I", "float32": "F"}
"""Type of gray values -> Pillow's name of it, where it has one."""


@dataclass(frozen=True)
class Directory:
    """The tags of a page that tell how its pixels lie; attributes are named like the tags.

    Attributes:
        more: Whether another page follows.
    """

    height: int
    width: int
    bits: tuple[int, ...]
    compression: int
    photometric: int
    orientation: int
    samples: int
    planar: int
    extra: tuple[int, ...]
    sample_format: int
    more: bool

    @property
    def whole_bytes(self) -> bool:
        """Whether the samples are numbers of whole bytes: gray, or RGB of 8 or 16 bits."""
        if self.compression == _OLD_JPEG or len(set(self.bits)) != 1:
            return False
        bits = self.bits[0]
        plain = self.sample_format == 1 and bits in (8, 16)
        # A fourth channel of RGB that is not explained is taken for alpha, as by all programs.
        extra = self.extra or ((_ALPHA,) if self.color and self.samples == 4 else ())
        if self.samples != (3 if self.color else 1) + len(extra):
            return False
        if self.color or extra[:1] == (_ALPHA,):
            return plain and extra[:1] != (_PREMULTIPLIED,)
        gray = self.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
        return gray and bits in (8, 16, 32, 64) and self.sample_format <= 4

    @property
    def color(self) -> bool:
        """Whether the image is RGB."""
        return self.photometric == _RGB

    @property
    def pixel_type(self) -> str:
        """Kind and number of the values of a pixel, for people."""
        kind = _KINDS.get(self.sample_format, "integers")
        return f"{self.samples} x {'/'.join(map(str, sorted(set(self.bits))))}-bit {kind}"


def read_directory(file: BinaryIO) -> Directory:
    """Read the first directory of a TIFF or BigTIFF file.

    Raises:
        ValueError: It is damaged, or lacks the size of the image or what its values mean.
    """
    try:
        tags, more = _read_tags(file)
    except struct.error as error:
        raise ValueError("the TIFF directory ends early") from error

    def first(tag: int, default: int) -> int:
        return (tags.get(tag) or (default,))[0]

    if not (tags.get(_WIDTH) and tags.get(_HEIGHT)):
        raise ValueError("the TIFF directory holds no image size")
    if not tags.get(_PHOTOMETRIC):
        raise ValueError("the TIFF directory does not tell whether 0 is black or white")
    return Directory(
        height=first(_HEIGHT, 0),
        width=first(_WIDTH, 0),
        bits=tags.get(_BITS) or (1,),
        compression=first(_COMPRESSION, 1),
        photometric=first(_PHOTOMETRIC, _BLACK_IS_ZERO),
        orientation=first(_ORIENTATION, 1),
        samples=first(_SAMPLES, 1),
        planar=first(_PLANAR, 1),
        extra=tags.get(_EXTRA, ()),
        sample_format=first(_FORMAT, 1),
        more=more,
    )


def _read_tags(file: BinaryIO) -> tuple[dict[int, tuple[int, ...]], bool]:
    """Return the values of the tags in `_TAGS`, and whether another directory follows."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", head, 2)[0] == 43
    # Of BigTIFF all counts and offsets have 8 bytes.
    word, count_of, start = ("Q", "Q", 8) if big else ("I", "H", 4)
    entry = struct.Struct(f"{order}HH{word}{struct.calcsize(word)}s")
    (at,) = struct.unpack_from(f"{order}{word}", head, start)
    count_size, word_size = struct.calcsize(count_of), struct.calcsize(word)
    file.seek(min(at, size))
    (count,) = struct.unpack(f"{order}{count_of}", file.read(count_size))
    entries = file.read(min(count, _MAX_ENTRIES) * entry.size)
    tags: dict[int, tuple[int, ...]] = {}
    for position in range(0, len(entries) - entry.size + 1, entry.size):
        tag, kind, number, value = entry.unpack_from(entries, position)
        # Of a tag that comes twice libtiff takes the first.
        if tag in _TAGS and tag not in tags:
            if kind not in _TYPES:
                raise ValueError(f"the TIFF tag {tag} is no integer")
            if number != 1 and tag not in _PER_SAMPLE:
                raise ValueError(f"the TIFF tag {tag} has {number} values")
            form = f"{order}{min(number, _MAX_SAMPLES)}{_TYPES[kind]}"
            if struct.calcsize(f"{order}{_TYPES[kind]}") * number > word_size:
                file.seek(min(struct.unpack(f"{order}{word}", value)[0], size))
                value = file.read(struct.calcsize(form))
            tags[tag] = struct.unpack_from(form, value)
    file.seek(min(at + count_size + count * entry.size, size))
    following = file.read(word_size)
    after = struct.unpack(f"{order}{word}", following)[0] if len(following) == word_size else 0
    # A page that leads back to itself, or past the end of the file, is the last.
    return tags, after not in (0, at) and after < size


def decode_tiff(file: BinaryIO, path: Path) -> Picture:
    """Decode a TIFF file.

    Args:
        file: The open file.
        path: Its name, for messages.

    Raises:
        CxrsegError: The image is too large, too small, of several pages, of a compression that is
            not read, or of a kind of numbers that cannot be shown in gray.
        Exception: On damaged files the decoders raise nearly any type.
    """
    directory = read_directory(file)
    # Before anything is decoded: the size is in the header.
    check_size(directory.height, directory.width, path)
    if directory.more:
        refuse_pages(path)
    if name := _NOT_READ.get(directory.compression):
        cause = f"is a TIFF compressed with {name}, which cannot be read"
        raise CxrsegError(path, cause, "save it uncompressed, or with LZW or deflate")
    if directory.whole_bytes:
        size = directory.height * directory.width * directory.samples * directory.bits[0] // 8
        if size > _MAX_BYTES:
            cause = f"is a TIFF of {directory.pixel_type} per pixel, {size >> 20} MiB in all"
            raise CxrsegError(path, cause, "save it as TIFF or PNG of 16-bit gray values alone")
        file.seek(0)
        return _decode_numbers(file.read(), directory).turned(directory.orientation)
    bits = max(directory.bits)
    separate = bits > 8 and directory.planar == _SEPARATE
    if directory.sample_format == 1 and bits <= 16 and not separate:
        file.seek(0)
        # libtiff writes notes of its own on damaged files.
        with suppress(UnidentifiedImageError), quiet():
            return _with_top(decode(file, path, "TIFF"), bits)
    cause = f"is a TIFF of {directory.pixel_type} per pixel, which cannot be read"
    raise CxrsegError(path, cause, "save it as TIFF or PNG of 8- or 16-bit gray values")


def _with_top(picture: Picture, bits: int) -> Picture:
    """Return a picture of 9 to 15 bits per value with the value of white."""
    if not picture.mode.startswith("I;16") or bits >= 16:
        return picture
    return replace(picture, top=float(2**bits - 1))


def _decode_numbers(content: bytes, directory: Directory) -> Picture:
    """Decode samples of whole bytes, laid as they are stored."""
    # Imported here: few X-rays are TIFF.
    import imagecodecs

    values = np.asarray(imagecodecs.tiff_decode(content))
    if directory.samples == 1:
        values = values[..., None]
    elif directory.planar == _SEPARATE:
        values = np.moveaxis(values, 0, -1)
    if values.shape != (directory.height, directory.width, directory.samples):
        raise ValueError(f"decoded to {list(values.shape)}")
    channels = 3 if directory.color else 1
    alpha = None
    if directory.samples > channels and directory.extra[:1] in ((), (_ALPHA,)):
        alpha = _bytes(values[..., channels])
        alpha = None if alpha.min() == 255 else alpha
    lossy = directory.compression == _JPEG
    if directory.color:
        return Picture(_bytes(values[..., :3]), alpha, format="TIFF", mode="RGB", lossy=lossy)
    gray = values[..., 0]
    negative = directory.photometric == _WHITE_IS_ZERO
    mode = _MODES.get(gray.dtype.name, gray.dtype.name)
    if negative and gray.dtype == np.uint8:
        gray, negative = np.invert(gray), False
    return Picture(gray, alpha, white_is_zero=negative, format="TIFF", mode=mode, lossy=lossy)


def _bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the upper 8 bits of uint8 or uint16 values."""
    if values.dtype == np.uint8:
        return values
    upper = np.empty(values.shape, np.uint8)
    np.right_shift(values, 8, out=upper, casting="unsafe")
    return upper
