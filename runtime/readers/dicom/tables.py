"""Lookup tables of DICOM (PS3.3 C.11.1.1, C.7.6.3.1.5), as machines write them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

MOST_ENTRIES = 1 << 16


class TableError(Exception):
    """A table that cannot be used; the text says why."""


class HeaderError(Exception):
    """An attribute that the image needs is absent or no number; the text says which."""


@dataclass(frozen=True)
class Table:
    """A lookup table.

    Attributes:
        first: The value that the first entry stands for; smaller ones get the first entry as well.
        entries: int64 [N]; larger values get the last one.
        note: What is unusual about it, empty if nothing is.
    """

    first: int
    entries: NDArray[np.int64]
    note: str = ""

    @property
    def last(self) -> int:
        """The value that the last entry stands for."""
        return self.first + len(self.entries) - 1

    def apply(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the entries of these values, of any shape."""
        return self.entries[np.clip(values - self.first, 0, len(self.entries) - 1)]


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """Return the values of an element, empty where it is absent, empty or no numbers."""
    with suppress(Exception):
        value = dataset.get(keyword)
        if value is None or value == "":
            return ()
        values = [value] if isinstance(value, str) or not isinstance(value, Sequence) else value
        return tuple(float(x) for x in values)
    return ()


def whole_number(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    """Return the value of an element that is one whole number above 0, else `default`.

    Raises:
        HeaderError: It is none, and there is no default.
    """
    values = numbers(dataset, keyword)
    if len(values) == 1 and values[0].is_integer() and values[0] > 0:
        return int(values[0])
    if default is not None:
        return default
    problem = "no number of pixels" if keyword in dataset else "missing"
    raise HeaderError(f"{keyword} is {problem}")


def read_table(
    item: Dataset, span: tuple[int, int], descriptor: str = "LUTDescriptor", data: str = "LUTData"
) -> Table:
    """Read a lookup table.

    Entries of 8 bits may be packed two in a word. The descriptor may tell a wrong number of entries
    (0 is 65536), or the first value without its sign.

    Args:
        item: Holds the table.
        span: Smallest and largest value that it will be applied to.
        descriptor: Keyword of the descriptor: number of entries, first value, bits per entry.
        data: Keyword of the entries.

    Raises:
        TableError: There are no entries that differ.
    """
    told = _descriptor(item, descriptor)
    if len(told) < 2:
        raise TableError("its descriptor is no descriptor")
    count = told[0] % MOST_ENTRIES or MOST_ENTRIES
    entries = _entries(item, data, count, told[2] if len(told) > 2 else 16)
    if len(entries) == 0 or (entries == entries[0]).all():
        raise TableError("its entries are all the same" if len(entries) else "it has no entries")
    note = "" if len(entries) == count else f"it has {len(entries)} entries, not {count}"
    return Table(_first(told[1], len(entries), span), entries, note)


def _descriptor(item: Dataset, keyword: str) -> list[int]:
    if keyword in item and item.get_item(keyword).VR in ("OB", "OW", "UN"):
        raw, little = _bytes(item, keyword)
        return [int(x) for x in np.frombuffer(raw, "<u2" if little else ">u2", len(raw) // 2)]
    return [int(x) for x in numbers(item, keyword) if np.isfinite(x)]


def _entries(item: Dataset, keyword: str, count: int, bits: int) -> NDArray[np.int64]:
    raw, little = _bytes(item, keyword)
    order = "<" if little else ">"
    if count <= len(raw) < 2 * count and bits <= 8:
        packed = np.frombuffer(raw, np.uint8)
        return packed[:count].astype(np.int64)
    words = np.frombuffer(raw, f"{order}u2", count=len(raw) // 2)
    return words[:count].astype(np.int64)


def _bytes(item: Dataset, keyword: str) -> tuple[bytes, bool]:
    """Return the bytes of an element, whatever its value representation, and their order."""
    if keyword not in item:
        return b"", True
    element = item.get_item(keyword)
    if isinstance(element, RawDataElement):
        return element.value or b"", element.is_little_endian
    value: Any = element.value
    if isinstance(value, bytes):
        return value, True
    with suppress(Exception):
        return np.atleast_1d(np.asarray(value)).astype("<u2").tobytes(), True
    return b"", True


def _first(first: int, count: int, span: tuple[int, int]) -> int:
    """Return the first value with the sign under which the table covers more of the values."""
    low, high = span

    def covered(start: int) -> int:
        return min(start + count - 1, high) - max(start, low)

    other = first - MOST_ENTRIES if first >= MOST_ENTRIES // 2 else first + MOST_ENTRIES
    plausible = first >= MOST_ENTRIES // 2 or first < 0
    return other if plausible and covered(other) > covered(first) else first
