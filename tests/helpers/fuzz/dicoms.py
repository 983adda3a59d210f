"""DICOM files whose structure is not what it should be: elements, lengths, VRs, items, syntaxes.

A sound file is taken apart into elements (PS3.5 section 7), a few are changed, and the file is put
together again.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import pydicom
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from pydicom import uid

from helpers.bad.bad_dicoms import dicom_seeds
from helpers.dicom.dicom_images import encoded, make, table
from helpers.fuzz.damage import SMALL, lengths, seldom_damaged

_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV")
_SHORT = (b"CS", b"DS", b"IS", b"LO", b"PN", b"SH", b"SS", b"UI", b"UL", b"US", b"FL", b"FD", b"AT")
_UNDEFINED = 0xFFFFFFFF
_PIXELS = 0x7FE00010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD

_SYNTAXES = [
    value.encode()
    for name, value in vars(uid).items()
    if isinstance(value, uid.UID) and value.is_transfer_syntax
]


@dataclass(frozen=True)
class Element:
    """A data element, or an item of a sequence.

    Attributes:
        tag: Group and element.
        vr: Value representation; empty for an item.
        value: The bytes of the value.
        told: The length that is told; None = that of the value.
    """

    tag: int
    vr: bytes
    value: bytes
    told: int | None = None

    def encode(self, implicit: bool, order: str) -> bytes:
        told = len(self.value) if self.told is None else self.told
        head = struct.pack(f"{order}HH", self.tag >> 16, self.tag & 0xFFFF)
        if implicit or not self.vr:
            return head + struct.pack(f"{order}I", told) + self.value
        if self.vr in _LONG:
            return head + self.vr + b"\0\0" + struct.pack(f"{order}I", told) + self.value
        return head + self.vr + struct.pack(f"{order}H", told & 0xFFFF) + self.value


@dataclass(frozen=True)
class File:
    """A file in its parts; pixel data that are compressed are split into items."""

    meta: tuple[Element, ...]
    elements: tuple[Element, ...]
    items: tuple[Element, ...]
    implicit: bool = False
    order: str = "<"
    deflated: bool = False

    def encode(self) -> bytes:
        meta = b"".join(element.encode(False, "<") for element in self.meta)
        elements = list(self.elements)
        if self.items:
            value = b"".join(item.encode(True, self.order) for item in self.items)
            elements = [
                replace(e, value=value, told=_UNDEFINED if e.told is None else e.told)
                if e.tag == _PIXELS
                else e
                for e in elements
            ]
        body = b"".join(element.encode(self.implicit, self.order) for element in elements)
        if self.deflated:
            body = zlib.compress(body, wbits=-15)
        return bytes(128) + b"DICM" + meta + body


@cache
def seeds() -> list[File]:
    """Return sound files of all transfer syntaxes, and one with sequences."""
    window = make(
        **{"VOILUTSequence": [table(0, list(range(0, 4096)), 12)], "WindowCenter": [128, 2000]},
        **{"WindowWidth": [256, 900], "PixelPaddingValue": 0, "PatientOrientation": ["L", "F"]},
        **{"IconImageSequence": [make(syntax=uid.ExplicitVRLittleEndian)]},
    )
    contents = [*dicom_seeds().values(), encoded(window)]
    return [parsed(content) for content in contents]


def parsed(content: bytes) -> File:
    """Return the parts of a sound file."""
    at = content.index(b"\2\0\x10\0UI")
    syntax = uid.UID(content[at + 8 : at + 8 + content[at + 6]].rstrip(b"\0").decode())
    (length,) = struct.unpack_from("<I", content, 140)
    meta = elements_of(content[132 : 144 + length], False, "<")
    body, order = content[144 + length :], ">" if not syntax.is_little_endian else "<"
    if syntax.is_deflated:
        body = zlib.decompress(body, wbits=-15)
    elements = elements_of(body, syntax.is_implicit_VR, order)
    items: list[Element] = []
    if syntax.is_compressed and not syntax.is_deflated:
        items = elements_of(elements[-1].value, True, order)
        elements[-1] = replace(elements[-1], told=None)
    parts = (tuple(meta), tuple(elements), tuple(items))
    return File(*parts, syntax.is_implicit_VR, order, syntax.is_deflated)


def elements_of(data: bytes, implicit: bool, order: str) -> list[Element]:
    """Return the elements of sound data; what has no length told is the last."""
    found, at = [], 0
    while at < len(data):
        group, number = struct.unpack_from(f"{order}HH", data, at)
        vr, told = b"", struct.unpack_from(f"{order}I", data, at + 4)[0]
        at += 8
        if not implicit:
            vr = data[at - 4 : at - 2]
            told = struct.unpack_from(f"{order}H", data, at - 2)[0]
            if vr in _LONG:
                told, at = struct.unpack_from(f"{order}I", data, at)[0], at + 4
        end = len(data) if told == _UNDEFINED else at + told
        found.append(Element(group << 16 | number, vr, data[at:end]))
        at = end
    return found


_TAGS = [
    int(pydicom.datadict.tag_for_keyword(keyword) or 0)
    for keyword in (
        *("SOPClassUID", "Modality", "NumberOfFrames", "BodyPartExamined", "ViewPosition"),
        *("PatientOrientation", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
        *("PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
        *("PixelPaddingValue", "PixelPaddingRangeLimit", "ModalityLUTSequence", "RescaleSlope"),
        *("RescaleIntercept", "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
        *("PixelSpacing", "ImagerPixelSpacing", "IconImageSequence", "ExtendedOffsetTable"),
        *("ExtendedOffsetTableLengths", "PixelData", "FloatPixelData", "SpecificCharacterSet"),
        *(
            "RedPaletteColorLookupTableDescriptor",
            "RedPaletteColorLookupTableData",
            "LUTDescriptor",
        ),
        *("LUTData", "BurnedInAnnotation", "PatientName", "StudyDate", "ReferencedImageSequence"),
    )
] + [0, 0xFFFFFFFF, 0x00090010, 0x00091001, 0x00280000, 0x60003000, _ITEM, _ITEM_END, _SEQUENCE_END]

_TEXTS = [
    *(
        b"",
        b"0",
        b"1 ",
        b"-1",
        b"1e308",
        b"NaN",
        b"inf",
        b"128\\256",
        b"1\\2\\3\\4",
        b"MONOCHROME1 ",
    ),
    *(b"RGB ", b"PALETTE COLOR ", b"YBR_FULL", b"\xff\xfe", b"\0\0\0\0", b"\\\\\\", b"LATERAL "),
    *(b"9" * 400, b"R\\L ", b"SIGMOID ", b"ISO 2022 IR 87", b"CT", b"1.2.840.10008.1.2.4.70"),
]
_VALUES = st.one_of(
    st.sampled_from(_TEXTS),
    st.binary(max_size=12),
    st.integers(0, 65535).map(lambda number: struct.pack("<H", number)),
    st.lists(SMALL, max_size=4).map(lambda numbers: struct.pack(f"<{len(numbers)}H", *numbers)),
)
_VRS = st.one_of(st.sampled_from([*_LONG, *_SHORT, b"\0\0", b"ZZ", b"??"]), st.binary(max_size=2))


@st.composite
def _inserted(draw: DrawFn, file: File) -> Element:
    """Draw an element that does not belong there: a plain one, or a sequence with odd ends."""
    tag = draw(st.one_of(st.sampled_from(_TAGS), st.integers(0, _UNDEFINED)))
    if draw(st.booleans()):
        vr = draw(_VRS).ljust(2, b" ")
        return Element(tag, vr, draw(_VALUES), draw(st.one_of(st.none(), lengths(8))))
    inner = draw(st.lists(st.sampled_from(file.elements), max_size=3))
    value = b"".join(element.encode(file.implicit, file.order) for element in inner)
    for _ in range(draw(st.integers(1, 3))):
        ends = (Element(_ITEM_END, b"", b""), Element(_SEQUENCE_END, b"", b""), b"", bytes(8))
        told = draw(st.one_of(st.none(), st.just(_UNDEFINED), lengths(len(value))))
        value = Element(_ITEM, b"", value, told).encode(True, file.order)
        for _ in range(draw(st.integers(0, 2))):
            end = draw(st.sampled_from(ends))
            value += end if isinstance(end, bytes) else end.encode(True, file.order)
    told = draw(st.one_of(st.just(_UNDEFINED), st.none(), lengths(len(value))))
    return Element(tag, draw(st.sampled_from([b"SQ", b"UN", b"OB"])), value, told)


@st.composite
def changed(draw: DrawFn, parts: Sequence[Element], file: File) -> tuple[Element, ...]:
    """Draw a series of elements with one of them changed."""
    changed = list(parts)
    at = draw(st.integers(0, len(changed) - 1))
    element = changed[at]
    how = draw(st.sampled_from(["told", "vr", "value", "tag", "loss", "again", "order", "more"]))
    if how == "told":
        told = draw(st.one_of(st.just(_UNDEFINED), lengths(len(element.value))))
        changed[at] = replace(element, told=told)
    elif how == "vr":
        changed[at] = replace(element, vr=draw(_VRS).ljust(2, b" ") if element.vr else b"")
    elif how == "value":
        value = draw(st.one_of(_VALUES, seldom_damaged(element.value)))
        changed[at] = replace(element, value=value)
    elif how == "tag":
        changed[at] = replace(element, tag=draw(st.sampled_from(_TAGS)))
    elif how == "loss":
        del changed[at]
    elif how == "again":
        changed.insert(draw(st.integers(0, len(changed))), element)
    elif how == "order":
        other = draw(st.integers(0, len(changed) - 1))
        changed[at], changed[other] = changed[other], changed[at]
    else:
        changed.insert(at, draw(_inserted(file)))
    return tuple(changed)


@st.composite
def _changed_items(draw: DrawFn, items: Sequence[Element]) -> tuple[Element, ...]:
    """Draw the items of compressed pixel data (PS3.5 A.4) with something wrong."""
    table, *frames = items
    how = draw(st.sampled_from(["table", "told", "split", "end", "empty", "cut", "frame", "twice"]))
    end = frames.pop() if frames[-1].tag == _SEQUENCE_END else None
    at = draw(st.integers(0, len(frames) - 1))
    frame = frames[at]
    if how == "table":
        offsets = draw(st.lists(lengths(len(frame.value)), max_size=3))
        table = replace(table, value=struct.pack(f"<{len(offsets)}I", *offsets))
    elif how == "told":
        told = draw(st.one_of(lengths(len(frame.value)), st.just(_UNDEFINED)))
        frames[at] = replace(frame, told=told)
    elif how == "split":
        cut = draw(st.integers(0, len(frame.value)))
        frames[at : at + 1] = [
            replace(frame, value=x) for x in (frame.value[:cut], frame.value[cut:])
        ]
    elif how == "end":
        end = draw(st.sampled_from([None, Element(0, b"", b""), Element(_ITEM_END, b"", b"")]))
    elif how == "empty":
        frames.insert(at, replace(frame, value=b""))
    elif how == "cut":
        frames[at] = replace(frame, value=frame.value[: -draw(st.integers(1, 40))])
    elif how == "frame":
        frames[at] = replace(frame, value=draw(seldom_damaged(frame.value)))
    else:
        frames.append(frame)
    return (table, *frames, *([end] if end else []))


@st.composite
def dicom_files(draw: DrawFn) -> bytes:
    """Draw a DICOM file with one to three changes of its structure, and of its bytes at times."""
    file = draw(st.sampled_from(seeds()))
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.sampled_from(["body", "body", "body", "items", "meta", "syntax", "coding"]))
        if where == "items" and len(file.items) > 1:
            file = replace(file, items=draw(_changed_items(file.items)))
        elif where == "meta" and file.meta:
            file = replace(file, meta=draw(changed(file.meta, file)))
        elif where == "syntax":
            syntax = Element(0x00020010, b"UI", draw(st.sampled_from(_SYNTAXES)))
            meta = [syntax if each.tag == syntax.tag else each for each in file.meta]
            file = replace(file, meta=tuple(meta))
        elif where == "coding":
            changes = [{"implicit": not file.implicit}, {"order": ">"}, {"deflated": True}]
            file = replace(file, **draw(st.sampled_from(changes)))
        elif file.elements:
            file = replace(file, elements=draw(changed(file.elements, file)))
    content = file.encode()
    content = content[draw(st.sampled_from([0] * 9 + [1, 128, 132])) :]
    return draw(seldom_damaged(content, 132))
