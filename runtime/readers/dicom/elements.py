"""The elements of a DICOM data set (PS3.5 7.1), found whatever its lengths and delimiters say.

pydicom believes each length, keeps in memory what it passes, and loses what follows a wrong one.
Here nothing is kept. Within a sequence of undefined length the lengths of items do not count, and
where what should be an element cannot be one, the next element that is wanted is searched.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import BinaryIO, NamedTuple

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010
UNDEFINED = 0xFFFFFFFF
"""A length that is not told: a delimiter ends the value."""

MAX_ELEMENTS = 1_000_000
"""Most elements passed in the file of an image."""

MAX_VALUE = 1 << 20
"""Largest value of an element other than Pixel Data, in bytes; a lookup table has 128 KiB."""

NO_END = "its sequence delimiter is missing"
WRONG_LENGTH = "lengths of its items or elements are wrong"
CUT = "its end is missing"

# Plain text: pydicom's own names are members of an enumeration, which compare slowly.
_LONG = frozenset(str(vr.value) for vr in EXPLICIT_VR_LENGTH_32)
_KNOWN = _LONG | {str(vr.value) for vr in EXPLICIT_VR_LENGTH_16}
_FRAGMENTED = frozenset(vr for vr in _LONG if vr.startswith("O"))
_VRS = {vr.encode(): vr for vr in _KNOWN}

_HEAD = 4096
_WINDOW = 1 << 20
_LEAST_WINDOW = 1 << 14
_OVERLAP = 16
_SEARCHES = 20


class TooManyError(Exception):
    """The file holds more elements than are accepted, or is damaged in too many places."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How elements are written (PS3.5 10): with or without their VR, and the byte order."""

    implicit: bool
    little: bool

    def tag(self, tag: int) -> bytes:
        """Return a tag's four bytes."""
        order = "little" if self.little else "big"
        return (tag >> 16).to_bytes(2, order) + (tag & 0xFFFF).to_bytes(2, order)  # type: ignore[arg-type]


class Element(NamedTuple):
    """Where one element lies.

    Attributes:
        tag: Group and number, 32 bits.
        vr: Value representation, None where the file does not tell.
        start: First byte of the value.
        end: Byte after it, a delimiter not included.
        undefined: Whether its length was undefined.
    """

    tag: int
    vr: str | None
    start: int
    end: int
    undefined: bool = False


class _Header(NamedTuple):
    tag: int
    vr: str | None
    start: int
    length: int


class Elements:
    """Walks the elements of a data set.

    Args:
        file: Where it lies; seekable.
        size: Length of the file in bytes.
        encoding: How it is written.
        wanted: Tags that are searched where the structure is lost.
        most: Most elements passed, those in sequences and repeated searches included.

    Attributes:
        repairs: What was wrong and could be passed, in words that continue "the file is damaged:".
    """

    def __init__(
        self,
        file: BinaryIO,
        size: int,
        encoding: Encoding,
        wanted: Collection[int] = (),
        most: int = MAX_ELEMENTS,
    ) -> None:
        self._file = file
        self._size = size
        self._encoding = encoding
        self._wanted = wanted
        self._most = most
        order = "<" if encoding.little else ">"
        self._explicit, self._long = (Struct(order + x).unpack_from for x in ("HH2sH", "I"))
        self._head, self._head_at = b"", 0
        self._passed = 0
        self._searched = 0
        self.repairs: dict[str, None] = {}

    def walk(self, at: int, last: int = PIXEL_DATA) -> Iterator[Element]:
        """Yield the elements of the data set that begins at this byte.

        Of damaged sequences nothing is yielded, and after damage a tag may come twice.

        Args:
            at: Where the first element begins.
            last: Largest tag that matters; whatever is damaged further on does not.

        Raises:
            TooManyError: There are too many.
        """
        known, found = _Header(0, None, at, 0), None
        while (header := self._header(at)) is not None:
            if header.tag in (ITEM_END, SEQUENCE_END):
                self.repairs[WRONG_LENGTH] = None
                at = header.start
                continue
            # What was searched and found needs nothing more to be believed.
            is_possible = at == found or (self._is_possible(header) and self._is_followed(header))
            if is_possible and header.tag > last:
                return
            element = self._element(header) if is_possible else None
            if element is None:
                if is_possible and dictionary_has_tag(header.tag):
                    known = header
                found = self._next_wanted(known)
                if found is None:
                    return
                self.repairs[WRONG_LENGTH] = None
                at = found
                continue
            yield element
            if dictionary_has_tag(header.tag):
                known = header
            at = element.end + 8 * element.undefined

    def meta(self, at: int) -> Iterator[Element]:
        """Yield the elements of group 0002 that begin at this byte."""
        while (header := self._header(at)) is not None and header.tag >> 16 == 2:
            at = header.start + header.length
            if at > self._size:
                return
            yield Element(header.tag, header.vr, header.start, at)

    def items(self, sequence: Element) -> Iterator[list[Element]]:
        """Yield the elements of each item of a sequence."""
        at = sequence.start
        item: list[Element] | None = None
        while at < sequence.end and (header := self._header(at)) is not None:
            at = header.start
            if header.tag == ITEM:
                if item is not None:
                    yield item
                item = []
            elif header.tag != ITEM_END:
                element = self._element(header) if self._is_possible(header) else None
                if item is None or element is None:
                    self.repairs[WRONG_LENGTH] = None
                    break
                item.append(element)
                at = element.end + 8 * element.undefined
        if item is not None:
            yield item

    def last_pixel_data(self) -> Element | None:
        """Return the last Pixel Data of the file: images of icons and previews stand before it."""
        last = None
        for at in self._find(re.escape(self._encoding.tag(PIXEL_DATA)), 0):
            header = self._header(at)
            if header is not None and self._is_pixel_data(header):
                last = header
        return None if last is None else self._element(last)

    def value(self, element: Element) -> bytes:
        """Return an element's value."""
        self._file.seek(element.start)
        return self._file.read(element.end - element.start)

    def follows_nothing(self, element: Element) -> bool:
        """Tell whether what follows a value is no element, though the file goes on."""
        header = self._header(element.end)
        return header is None or header.tag == 0 or not self._is_possible(header)

    def _header(self, at: int) -> _Header | None:
        self._passed += 1
        if self._passed > self._most:
            raise TooManyError(f"more than {self._most:,} elements")
        head, here = self._head, at - self._head_at
        if not 0 <= here <= len(head) - 12:
            self._file.seek(at)
            head, here = self._file.read(_HEAD), 0
            self._head, self._head_at = head, at
        if len(head) < here + 8:
            return None
        group, number, code, short = self._explicit(head, here)
        tag = group << 16 | number
        vr = "" if self._encoding.implicit or group == 0xFFFE else _VRS.get(code)
        if vr is None and code.isalpha() and code.isupper():
            # As pydicom takes one that it does not know.
            return _Header(tag, code.decode(), at + 8, short)
        if not vr:
            # Sequences of explicit files may hold implicit items (PS3.5 6.2.2).
            return _Header(tag, None, at + 8, self._long(head, here + 4)[0])
        if vr not in _LONG:
            return _Header(tag, vr, at + 8, short)
        if len(head) < here + 12:
            return None
        return _Header(tag, vr, at + 12, self._long(head, here + 8)[0])

    def _is_possible(self, header: _Header) -> bool:
        """Tell whether this can be an element."""
        if header.tag >> 16 in (0, 0xFFFE):
            return False
        if header.length == UNDEFINED:
            return header.vr is None or header.vr in _LONG
        if header.start + header.length > self._size:
            return header.tag == PIXEL_DATA
        return header.vr is None or header.vr in _KNOWN

    def _is_followed(self, header: _Header) -> bool:
        """Tell whether an element without VR, which could be any bytes, is followed by another."""
        if header.vr is not None or header.length == UNDEFINED or header.tag == PIXEL_DATA:
            return True
        end = header.start + header.length
        following = self._header(end)
        if following is None:
            return end == self._size
        # Elements stand in the order of their tags, but not in all files.
        in_order = following.tag > header.tag
        return in_order or (dictionary_has_tag(following.tag) and self._is_possible(following))

    def _element(self, header: _Header) -> Element | None:
        """Return where the value ends, None where that cannot be told."""
        tag, vr, start = header.tag, header.vr, header.start
        if header.length != UNDEFINED:
            end = min(start + header.length, self._size)
            return Element(tag, vr, start, end)
        if tag == PIXEL_DATA or vr in _FRAGMENTED:
            return Element(tag, vr, start, self._end_of_fragments(start), undefined=True)
        end_of_sequence = self._end_of_sequence(start)
        if end_of_sequence is None:
            return None
        return Element(tag, vr, start, end_of_sequence, undefined=True)

    def _end_of_sequence(self, at: int) -> int | None:
        """Return where the delimiter lies that ends a sequence; lengths of items do not count."""
        depth = 1
        while (header := self._header(at)) is not None:
            if header.tag == SEQUENCE_END:
                depth -= 1
                if depth == 0:
                    return at
            at = header.start
            if header.tag in (ITEM, ITEM_END, SEQUENCE_END):
                continue
            if not self._is_possible(header):
                return None
            if header.length != UNDEFINED:
                at += header.length
            elif header.tag == PIXEL_DATA or header.vr in _FRAGMENTED:
                at = self._end_of_fragments(at) + 8
            else:
                depth += 1
        return None

    def _end_of_fragments(self, start: int) -> int:
        """Return where the delimiter lies that ends encapsulated data (PS3.5 A.4), or should."""
        at = start
        while (header := self._header(at)) is not None and header.tag == ITEM:
            if header.start + header.length > self._size:
                break
            at = header.start + header.length
        if header is not None and header.tag == SEQUENCE_END:
            return at
        delimiter = self._encoding.tag(SEQUENCE_END) + bytes(4)
        found = next(self._find(re.escape(delimiter), start), None)
        self.repairs[NO_END if found is None else WRONG_LENGTH] = None
        return self._size if found is None else found

    def _next_wanted(self, known: _Header) -> int | None:
        """Return where the next wanted element above a known one begins."""
        tags = [tag for tag in self._wanted if tag > known.tag or tag == PIXEL_DATA]
        if not tags:
            return None
        pattern = b"|".join(re.escape(self._encoding.tag(tag)) for tag in tags)
        for at in self._find(pattern, known.start):
            header = self._header(at)
            if header is not None and self._is_wanted(header):
                return at
        return None

    def _is_wanted(self, header: _Header) -> bool:
        if header.tag == PIXEL_DATA:
            return self._is_pixel_data(header)
        if header.vr is None and not (self._encoding.implicit and header.length <= MAX_VALUE):
            return False
        is_known = header.vr is None or header.vr in dictionary_VR(header.tag)
        return is_known and self._is_possible(header)

    def _is_pixel_data(self, header: _Header) -> bool:
        if header.vr not in (None if self._encoding.implicit else "OB", "OB", "OW", "UN"):
            return False
        if header.length != UNDEFINED:
            return 0 < header.length <= self._size - header.start
        following = self._header(header.start)
        return following is not None and following.tag == ITEM

    def _find(self, pattern: bytes, at: int) -> Iterator[int]:
        """Yield where a pattern of at most 16 bytes matches, from this byte on."""
        compiled = re.compile(pattern, re.DOTALL)
        last = -1
        while at < self._size:
            self._file.seek(at)
            window = self._file.read(_WINDOW)
            self._searched += max(len(window), _LEAST_WINDOW)
            if self._searched > _SEARCHES * (self._size + _WINDOW):
                raise TooManyError("damaged in too many places")
            for match in compiled.finditer(window):
                place = at + match.start()
                if place > last:
                    last = place
                    yield place
            if at + len(window) >= self._size or len(window) <= _OVERLAP:
                return
            at += len(window) - _OVERLAP
