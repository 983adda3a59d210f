"""DICOMDIR files whose records are not what they should be (PS3.3 annex F)."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from pydicom import uid
from pydicom.dataset import Dataset

from helpers.dicom.dicom_images import make
from helpers.fuzz.damage import seldom_damaged
from helpers.fuzz.dicoms import Element, File, changed, elements_of, parsed

IMAGES = ("XRAYS\\A", "XRAYS\\B")
"""File IDs of the images that a sound listing names."""

_RECORDS = 0x00041220
_IDS = [
    *(b"..\\x.dcm", b"XRAYS\\..\\..\\x.dcm", b"\\etc\\passwd", b"C:\\x.dcm", b"", b"\\\\\\", b"."),
    *(b"XRAYS\\\xff\xfe", b"XRAYS", b"A" * 300, b"XRAYS\\A;1", b"xrays\\a", b"X\0Y", b"XRAYS\\C "),
    *(b"DICOMDIR", b"\\".join([b"D"] * 2000), b"\x1b[2J"),
]


@cache
def _sound() -> File:
    records = []
    for name in IMAGES:
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        record.ReferencedFileID = name.split("\\")
        record.ReferencedTransferSyntaxUIDInFile = uid.ExplicitVRLittleEndian
        records.append(record)
    listing = make(PixelData=None, DirectoryRecordSequence=records)
    listing.SOPClassUID = uid.MediaStorageDirectoryStorage
    buffer = io.BytesIO()
    listing.save_as(buffer, enforce_file_format=True)
    return parsed(buffer.getvalue())


@st.composite
def _records(draw: DrawFn, sequence: Element, file: File) -> Element:
    """Draw the sequence of records with an item, or an element of one, changed."""
    items = elements_of(sequence.value, True, "<")
    if draw(st.integers(0, 2)) and items:
        at = draw(st.integers(0, len(items) - 1))
        record = elements_of(items[at].value, False, "<")
        if draw(st.booleans()):
            name = draw(st.one_of(st.sampled_from(_IDS), st.binary(max_size=9)))
            record[1] = replace(record[1], value=name)
        else:
            record = list(draw(changed(record, file)))
        items[at] = replace(items[at], value=b"".join(x.encode(False, "<") for x in record))
    else:
        items = list(draw(changed(items, file)))
    return replace(sequence, value=b"".join(item.encode(True, "<") for item in items))


@st.composite
def dicomdirs(draw: DrawFn) -> bytes:
    """Draw a DICOMDIR of two images with one to three changes of its structure."""
    file = _sound()
    at = next(i for i, each in enumerate(file.elements) if each.tag == _RECORDS)
    elements = list(file.elements)
    elements[at] = draw(_records(elements[at], file))
    file = replace(file, elements=tuple(elements))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        file = replace(file, elements=draw(changed(file.elements, file)))
    return draw(seldom_damaged(file.encode(), 132))
