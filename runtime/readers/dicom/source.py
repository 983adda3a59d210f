"""The one way in which DICOM files are opened: what is wanted of them, within bounds.

Whatever the file, no more is kept than the wanted elements. Bounded are the size of a deflated data
set, how many elements are passed, and the length of each value.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from pydicom import uid
from pydicom.charset import convert_encodings
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement, empty_value_for_VR
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from cxrseg.runtime.files.opening import open_file
from cxrseg.runtime.readers.dicom.elements import (
    MAX_VALUE,
    PIXEL_DATA,
    WRONG_LENGTH,
    Element,
    Elements,
    Encoding,
)

MAX_INFLATED = 1 << 29
"""Largest size of the deflated data set of an image, in bytes."""

MAX_INFLATED_TEXT = 1 << 26
"""The same where no pixels are wanted."""

_META = {"MediaStorageSOPClassUID": 0x00020002, "TransferSyntaxUID": 0x00020010}
_SIZE = {0x00280010, 0x00280011}
_OTHER_PIXELS = {0x7FE00008: "Float Pixel Data", 0x7FE00009: "Double Float Pixel Data"}
_ZLIB = b"\x78"
_LEAST = 8
_PIECE = 1 << 20


class InflatedError(Exception):
    """A deflated data set is larger than accepted."""


@dataclass(frozen=True)
class DicomFile:
    """What was wanted of a DICOM file.

    Attributes:
        dataset: The wanted elements but Pixel Data; those that the file lacks are absent.
        media_class: Media Storage SOP Class UID, empty where there is none.
        syntax: Transfer Syntax UID as the file tells it, empty where it does not.
        encoding: How the elements are written.
        pixels: The value of Pixel Data, encapsulated or not; empty where there is none.
        stated: How long Pixel Data is said to be, in bytes; None if its length is undefined.
        other_pixels: Name of the floating-point Pixel Data (PS3.3 C.7.6.24), empty without them.
        repairs: What is wrong and was passed, in words that continue "the file is damaged:".
    """

    dataset: Dataset
    media_class: str
    syntax: str
    encoding: Encoding
    pixels: bytes = b""
    stated: int | None = 0
    other_pixels: str = ""
    repairs: tuple[str, ...] = ()


def read_file(path: Path, keywords: Sequence[str], *, pixels: bool = False) -> DicomFile:
    """Read elements of a DICOM file, which may lack preamble and file meta information.

    Args:
        path: The file.
        keywords: Keywords of the elements wanted. One whose value is longer than `MAX_VALUE` counts
            as absent.
        pixels: Whether Pixel Data is wanted as well.

    Raises:
        OSError: It cannot be opened, or is no regular file.
        InflatedError, TooManyError: It is larger than accepted.
    """
    with open_data_set(path, MAX_INFLATED if pixels else MAX_INFLATED_TEXT, pixels) as source:
        wanted = {tag_for_keyword(keyword) or 0 for keyword in keywords}
        searched = wanted | {PIXEL_DATA} if pixels else wanted
        elements = Elements(source.file, source.size, source.encoding, searched)
        needed = wanted & _SIZE
        found: dict[int, Element] = {}
        image, other_pixels = None, ""
        for element in elements.walk(source.start, PIXEL_DATA if pixels else max(wanted)):
            if element.tag == PIXEL_DATA:
                image = element
                # In some files Pixel Data stand before what they need.
                if not elements.repairs and needed <= found.keys():
                    break
            elif element.tag in _OTHER_PIXELS:
                other_pixels = _OTHER_PIXELS[element.tag]
            elif element.tag in wanted and element.end - element.start <= MAX_VALUE:
                # Of a tag that comes twice, the later one may be of an item of a damaged sequence.
                found.setdefault(element.tag, element)
        dataset = to_dataset(elements, found.values(), source.encoding)
        value: bytes = b""
        stated: int | None = 0
        if pixels and (elements.repairs or image is None):
            image = _last_image(elements, image)
        if pixels and image is not None:
            value, stated = _pixels(elements, image, source.size)
        return DicomFile(
            dataset,
            source.media_class,
            source.syntax,
            source.encoding,
            value,
            stated,
            other_pixels,
            tuple(elements.repairs),
        )


def _last_image(elements: Elements, image: Element | None) -> Element | None:
    """Return the last Pixel Data of a damaged file; it may stand beyond what could be walked."""
    last = elements.last_pixel_data()
    if last is not None and image is None:
        elements.repairs[WRONG_LENGTH] = None
    return last or image


def _pixels(elements: Elements, image: Element, size: int) -> tuple[bytes, int | None]:
    if image.undefined:
        return elements.value(image), None
    stated = image.end - image.start
    if image.end < size and elements.follows_nothing(image):
        # Its length may be too small: how much of it is needed, its size will tell.
        image = Element(image.tag, image.vr, image.start, size)
    return elements.value(image), stated


@dataclass(frozen=True)
class DataSet:
    """An open data set: where it lies and how it is written."""

    file: BinaryIO
    size: int
    start: int
    encoding: Encoding
    media_class: str
    syntax: str


@contextmanager
def open_data_set(
    path: Path, limit: int = MAX_INFLATED_TEXT, whole: bool = True
) -> Iterator[DataSet]:
    """Open a DICOM file and find its data set.

    Args:
        path: The file.
        limit: Largest size of a deflated data set, in bytes.
        whole: Whether all of it is needed; else so much of it is given.

    Raises:
        OSError: It cannot be opened, or is no regular file.
        InflatedError: It is needed as a whole, and inflates to more than the limit.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = 132 if file.read(132)[128:] == b"DICM" else 0
        meta = Elements(file, size, Encoding(implicit=False, little=True))
        told = {}
        for element in meta.meta(start):
            if element.tag in _META.values():
                told[element.tag] = _text(meta.value(element))
            start = element.end
        media_class, syntax = (told.get(tag, "") for tag in _META.values())
        source: BinaryIO = file
        if syntax == uid.DeflatedExplicitVRLittleEndian:
            inflated = _inflated(file, start, limit, whole)
            if inflated is not None:
                source, size, start = inflated, inflated.tell(), 0
        source.seek(start)
        encoding = _encoding(source.read(8), syntax)
        yield DataSet(source, size, start, encoding, media_class, syntax)


def _text(value: bytes) -> str:
    return value.decode("latin-1").strip("\0 ")


def _inflated(file: BinaryIO, start: int, limit: int, whole: bool) -> io.BytesIO | None:
    """Return the data set inflated, None where it was not deflated."""
    file.seek(start)
    # The header of zlib, which some writers put before the data, is no beginning of bare ones.
    is_wrapped = file.read(1) == _ZLIB
    inflate = zlib.decompressobj(zlib.MAX_WBITS if is_wrapped else -zlib.MAX_WBITS)
    file.seek(start)
    data, total = io.BytesIO(), 0
    try:
        rest = file.read(_PIECE)
        while rest and not inflate.eof:
            total += data.write(inflate.decompress(rest, _PIECE))
            if total > limit and not whole:
                break
            if total > limit:
                raise InflatedError(f"it inflates to more than {limit >> 20} MiB")
            rest = inflate.unconsumed_tail or file.read(_PIECE)
    except zlib.error:
        if total < _LEAST:
            return None
    return data


def _encoding(head: bytes, syntax: str) -> Encoding:
    """Tell from the first element how a data set is written, else from what the file says."""
    if len(head) < 8:
        return Encoding(implicit=not syntax, little=True)
    # The first group is a small number: 0008 in nearly every file.
    little = int.from_bytes(head[:2], "little") <= int.from_bytes(head[:2], "big")
    vr = head[4:6]
    return Encoding(implicit=not (vr.isalpha() and vr.isupper()), little=little)


def to_dataset(elements: Elements, found: Iterable[Element], encoding: Encoding) -> Dataset:
    """Return elements as pydicom's data set, which converts a value when it is asked for."""
    raw: dict[BaseTag, RawDataElement | DataElement] = {}
    for element in found:
        value = elements.value(element) or cast(bytes, empty_value_for_VR(element.vr, raw=True))
        raw[BaseTag(element.tag)] = RawDataElement(
            BaseTag(element.tag),
            element.vr,
            element.end - element.start,
            value,
            element.start,
            element.vr is None,
            encoding.little,
        )
    dataset = Dataset(raw)
    sets = convert_encodings(dataset.get("SpecificCharacterSet"))
    dataset.set_original_encoding(encoding.implicit, encoding.little, sets)
    return dataset
