"""TIFF files whose tags are not what they should be (TIFF 6.0, section 2; BigTIFF)."""

from __future__ import annotations

import struct
from functools import cache

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from helpers.bad.bad_rasters import raster_seeds
from helpers.bad.damage import SIDE
from helpers.drawing.phantoms import blocks
from helpers.drawing.tiffs import tiff
from helpers.fuzz.damage import lengths, seldom_damaged

_TAGS = [
    *(254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 280, 281, 282, 284, 292),
    *(297, 301, 305, 317, 318, 320, 322, 323, 324, 325, 330, 332, 338, 339, 340, 341, 347, 512),
    *(513, 514, 515, 519, 529, 530, 531, 532, 700, 33432, 34665, 34675, 34853, 50706, 65000, 0),
]
_CODES = {
    258: [1, 2, 4, 8, 10, 12, 16, 24, 32, 64, 128],
    259: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 32771, 32773, 32946, 34661, 34677, 34712, 34887, 34925],
    262: [0, 1, 2, 3, 4, 5, 6, 8, 9, 32803, 34892],
    266: [1, 2],
    274: list(range(10)),
    277: [0, 1, 2, 3, 4, 5, 17],
    284: [1, 2, 3],
    317: [1, 2, 3],
    338: [0, 1, 2, 3],
    339: [1, 2, 3, 4, 5, 6],
}
"""Tag -> values that mean something."""

_TYPES = [*range(14), 16, 17, 18, 255, 65535]


@cache
def seeds() -> list[bytes]:
    """Return sound files: types of numbers, byte orders, compressions, and BigTIFF."""
    gray = blocks(SIDE, SIDE)
    color = np.stack([gray, gray, gray], axis=-1)
    drawn = [
        *(tiff(gray.astype(kind)) for kind in ("u1", "u2", "i2", "u4", "f2", "f4", "f8", "i8")),
        *(
            tiff(gray, ">"),
            tiff(gray, deflate=True),
            tiff(gray, big=True),
            tiff(gray, ">", big=True),
        ),
        *(tiff(gray.astype("u2"), ">", photometric=0), tiff(gray.astype("i1"), orientation=6)),
        *(tiff(color, photometric=2), tiff(color, photometric=2, planar=True, big=True)),
        *(tiff(color[..., :2], extra=2), tiff(gray.astype("c8"))),
    ]
    saved = [content for name, content in raster_seeds().items() if name.endswith(".tif")]
    return saved + drawn


class _Directory:
    """The first directory of a file, to be changed where it stands."""

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)
        self.order = "<" if content[:2] == b"II" else ">"
        big = struct.unpack_from(f"{self.order}H", content, 2)[0] == 43
        self.word = "Q" if big else "I"
        (self.start,) = struct.unpack_from(f"{self.order}{self.word}", content, 8 if big else 4)
        counter = "Q" if big else "H"
        (self.count,) = struct.unpack_from(f"{self.order}{counter}", content, self.start)
        self.first = self.start + struct.calcsize(counter)
        self.entry = struct.Struct(f"{self.order}HH{self.word}{self.word}")

    def read(self, number: int) -> list[int]:
        """Return tag, type, count and value, as one number, of an entry."""
        at = self.first + number * self.entry.size
        return list(self.entry.unpack_from(self.content, at))

    def write(self, number: int, entry: list[int]) -> None:
        at = self.first + number * self.entry.size
        self.entry.pack_into(self.content, at, *entry)

    def set_next(self, offset: int) -> None:
        at = self.first + self.count * self.entry.size
        struct.pack_into(f"{self.order}{self.word}", self.content, at, offset)

    def value(self, kind: int, number: int) -> int:
        """Return what an entry holds where its value is one number of a type."""
        form = {3: "H", 1: "B", 6: "b", 8: "H"}.get(kind, self.word)
        top = (1 << 8 * struct.calcsize(form)) - 1
        data = struct.pack(f"{self.order}{form.upper()}", number & top)
        room = struct.calcsize(self.word)
        return int(struct.unpack(f"{self.order}{self.word}", data.ljust(room, b"\0"))[0])


@st.composite
def changed_tiff(draw: DrawFn, content: bytes) -> bytes:
    """Draw a sound file with one to three of its tags changed, and of its bytes at times."""
    directory = _Directory(content)
    bits = 64 if directory.word == "Q" else 32
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, directory.count - 1))
        tag, kind, count, value = directory.read(at)
        how = draw(
            st.sampled_from(["code", "code", "value", "tag", "type", "count", "copy", "next"])
        )
        if how == "code":
            tag = draw(st.sampled_from([*_CODES, tag]))
            value = directory.value(3, draw(st.sampled_from(_CODES.get(tag, [0, 1, 2]))))
            known = [n for n in range(directory.count) if directory.read(n)[0] == tag]
            at, kind, count = (known or [at])[0], 3, 1
        elif how == "value":
            value = directory.value(kind, draw(lengths(value, bits)))
        elif how == "tag":
            tag = draw(st.sampled_from(_TAGS))
        elif how == "type":
            kind = draw(st.sampled_from(_TYPES))
        elif how == "count":
            count = draw(lengths(count, bits))
        elif how == "copy":
            tag, kind, count, value = directory.read(draw(st.integers(0, directory.count - 1)))
        else:
            directory.set_next(draw(st.one_of(st.just(directory.start), lengths(0, bits))))
        directory.write(at, [tag, kind, count, value])
    return draw(seldom_damaged(bytes(directory.content), 4))


@st.composite
def tiff_files(draw: DrawFn) -> bytes:
    """Draw a TIFF file of any kind of pixels with odd tags."""
    return draw(changed_tiff(draw(st.sampled_from(seeds()))))
