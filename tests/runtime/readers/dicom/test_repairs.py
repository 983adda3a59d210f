"""Files with a structure that is damaged around a sound image: read, with a flag that says so."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from cxrseg.runtime import CxrsegError, Radiograph, read
from helpers.dicom.damaged import (
    DELIMITER,
    element,
    even,
    file_of,
    item,
    open_item,
    open_sequence,
    pixel_data,
    sequence,
)
from helpers.dicom.dicom_images import encoded, jpeg2000, levels, lossless_jpeg, make, rle, unit
from helpers.fuzz.dicoms import parsed

VALUES = levels(12)
JPEG = even(lossless_jpeg(VALUES, 12, 1))
JPEG_LS = even(imagecodecs.jpegls_encode(VALUES))
STREAMS = {
    "JPEG": JPEG,
    "JPEG-LS": JPEG_LS,
    "JPEG 2000": even(jpeg2000(VALUES, 12)),
    "JPEG XL": even(imagecodecs.jpegxl_encode(VALUES, lossless=True, bitspersample=12)),
    "RLE": even(rle(VALUES, 12)),
}


def compressed() -> Dataset:
    return make(VALUES, 12, uid.JPEGLosslessSV1, JPEG)


def read_bytes(folder: Path, content: bytes) -> Radiograph:
    (folder / "x.dcm").write_bytes(content)
    return read(folder / "x.dcm")


def repair(radiograph: Radiograph) -> str:
    """Return what the one flag says, empty where there is none."""
    if not radiograph.flags:
        return ""
    (flag,) = radiograph.flags
    assert flag.code == "damaged_but_read"
    return flag.reason.split("nevertheless: ")[1]


def check(folder: Path, content: bytes, expected: str | None, atol: float = 1e-6) -> None:
    radiograph = read_bytes(folder, content)
    np.testing.assert_allclose(radiograph.pixels, unit(VALUES), atol=atol)
    assert expected is None or repair(radiograph) == expected


@pytest.mark.parametrize("end", ["", "0" * 8, "0" * 16, "0" * 32, "feffdde0", "feff"])
@pytest.mark.parametrize("name", STREAMS)
def test_end_of_the_sequence(tmp_path: Path, name: str, end: str) -> None:
    image = pixel_data(item(b"") + item(STREAMS[name]), bytes.fromhex(end))
    check(tmp_path, file_of(compressed(), image), "its sequence delimiter is missing")


TABLES = {
    "its offset table is missing": [b""],
    "its offset table is wrong": [
        item(struct.pack("<I", 8)),
        item(b"\xff" * 4),
        item(bytes(8)),
        item(bytes(6)),
        item(struct.pack("<3I", 0, 100, 50)),
    ],
    "": [item(b""), item(bytes(4))],
}


@pytest.mark.parametrize("expected", TABLES)
@pytest.mark.parametrize("name", STREAMS)
def test_offset_table(tmp_path: Path, name: str, expected: str) -> None:
    for table in TABLES[expected]:
        image = pixel_data(table + item(STREAMS[name]))
        check(tmp_path, file_of(compressed(), image), expected)


@pytest.mark.parametrize("size", [1000, 30_000])
@pytest.mark.parametrize("with_table", [False, True])
@pytest.mark.parametrize("name", STREAMS)
def test_fragments_of_one_frame(tmp_path: Path, name: str, with_table: bool, size: int) -> None:
    stream = STREAMS[name]
    fragments = b"".join(item(stream[at : at + size]) for at in range(0, len(stream), size))
    image = pixel_data((item(b"") if with_table else b"") + fragments)
    expected = "" if with_table else "its offset table is missing"
    check(tmp_path, file_of(compressed(), image), expected)


@pytest.mark.parametrize("name", STREAMS)
def test_length_of_the_fragment(tmp_path: Path, name: str) -> None:
    stream = STREAMS[name]
    for length in (0, 4, len(stream) - 2, len(stream) + 2, len(stream) + 5000, 1 << 31):
        image = pixel_data(item(b"") + item(stream, length))
        radiograph = read_bytes(tmp_path, file_of(compressed(), image))
        np.testing.assert_allclose(radiograph.pixels, unit(VALUES), atol=1e-6)
        assert "lengths of its items" in repair(radiograph)


def test_no_fragments_at_all(tmp_path: Path) -> None:
    image = element(0x7FE00010, "OB", JPEG)
    check(tmp_path, file_of(compressed(), image), "its compressed image is not encapsulated")


@pytest.mark.parametrize("missing", [1, 2, 3, 4, 20, 100])
@pytest.mark.parametrize("name", ["JPEG", "JPEG-LS", "JPEG 2000", "RLE"])
def test_a_few_bytes_short(tmp_path: Path, name: str, missing: int) -> None:
    stream = STREAMS[name]
    content = file_of(compressed(), pixel_data(item(b"") + item(stream)))
    # The delimiter is gone, too.
    radiograph = read_bytes(tmp_path, content[: -8 - missing])
    wrong = np.abs(radiograph.pixels - unit(VALUES)) > 0.02
    assert wrong.mean() < 0.006
    assert "its end is missing" in repair(radiograph) or missing == 1


@pytest.mark.parametrize("name", ["JPEG", "JPEG-LS", "JPEG 2000", "RLE"])
def test_much_is_missing(tmp_path: Path, name: str) -> None:
    stream = STREAMS[name]
    content = file_of(compressed(), pixel_data(item(b"") + item(stream)))
    with pytest.raises(CxrsegError, match=r"damaged|missing"):
        read_bytes(tmp_path, content[: -len(stream) // 2])


def test_uncompressed_pixels_cut_off(tmp_path: Path) -> None:
    content = encoded(make())
    for missing in (1, 2, 100, 3000):
        radiograph = read_bytes(tmp_path, content[:-missing])
        assert repair(radiograph) == "its end is missing"
        whole = 200 - missing // 360 - 1
        np.testing.assert_allclose(radiograph.pixels[:whole], unit(VALUES)[:whole], atol=1e-3)
    with pytest.raises(CxrsegError, match="64000 of 72000 bytes"):
        read_bytes(tmp_path, content[:-8000])


def test_length_of_uncompressed_pixels(tmp_path: Path) -> None:
    size = VALUES.nbytes
    for length in (0, 2, size - 360, size - 2, size + 2, size + 5000, 0xFFFFFFF0):
        image = element(0x7FE00010, "OW", VALUES.tobytes(), length)
        radiograph = read_bytes(tmp_path, file_of(make(), image))
        np.testing.assert_allclose(radiograph.pixels, unit(VALUES), atol=1e-6)


def icon(fragment_length: int | None = None, delimiter: bytes = DELIMITER) -> bytes:
    """Return the elements of an item of Icon Image Sequence, with compressed Pixel Data."""
    small = levels(8)[:64, :64].copy()
    numbers = {0x00280002: 1, 0x00280010: 64, 0x00280011: 64, 0x00280100: 8, 0x00280101: 8}
    head = b"".join(element(tag, "US", struct.pack("<H", x)) for tag, x in numbers.items())
    stream = even(lossless_jpeg(small, 8, 1))
    return head + pixel_data(item(b"") + item(stream, fragment_length), delimiter)


ICON, REFERENCED = 0x00880200, 0x00081140
WRONG = "lengths of its items or elements are wrong"


def references() -> bytes:
    names = {0x00081150: b"1.2.840.10008.5.1.4.1.1.1", 0x00081155: b"1.2.3.4"}
    return b"".join(element(tag, "UI", value) for tag, value in names.items())


SEQUENCES: dict[str, tuple[int, bytes]] = {
    "icon": (ICON, icon()),
    "two": (REFERENCED, references()),
}


def both_images(place: int, damaged: bytes) -> list[bytes]:
    """Return a compressed and an uncompressed image with a sequence where it belongs."""
    side: Any = {"before": damaged} if place == ICON else {"early": damaged}
    return [
        file_of(compressed(), pixel_data(item(b"") + item(JPEG)), **side),
        file_of(make(), element(0x7FE00010, "OW", VALUES.tobytes()), **side),
    ]


@pytest.mark.parametrize("name", SEQUENCES)
def test_sound_sequences_raise_nothing(tmp_path: Path, name: str) -> None:
    tag, content = SEQUENCES[name]
    for sound in (
        sequence(tag, item(content) * 2),
        sequence(tag, open_item(content)),
        open_sequence(tag, item(content)),
        open_sequence(tag, open_item(content) * 2),
        # Of unknown representation and undefined length, with implicit items (PS3.5 6.2.2).
        element(tag, "UN", open_item(b"\x09\0\x10\0\4\0\0\0abcd"), 0xFFFFFFFF) + DELIMITER,
    ):
        for file in both_images(tag, sound):
            check(tmp_path, file, "")


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("wrong", [-24, -8, -2, 2, 8, 24, 1000, 100_000])
def test_wrong_lengths_of_sequences_and_items(tmp_path: Path, name: str, wrong: int) -> None:
    tag, content = SEQUENCES[name]
    told = len(content) + wrong
    for damaged in (
        sequence(tag, item(content, told), wrong),
        sequence(tag, item(content), wrong),
        sequence(tag, open_item(content), wrong),
    ):
        for file in both_images(tag, damaged):
            check(tmp_path, file, WRONG)
    # Where a delimiter ends the sequence, or its own length is right, the items' do not matter.
    for damaged in (
        sequence(tag, item(content, told)),
        open_sequence(tag, item(content, told) + item(content)),
    ):
        for file in both_images(tag, damaged):
            check(tmp_path, file, "")


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("delimiter", [b"", bytes(8)])
def test_sequence_without_its_end(tmp_path: Path, name: str, delimiter: bytes) -> None:
    tag, content = SEQUENCES[name]
    for items in (item(content), open_item(content)):
        for file in both_images(tag, open_sequence(tag, items, delimiter)):
            check(tmp_path, file, WRONG)


@pytest.mark.parametrize("wrong", [-10, 10, 5000, 1 << 30])
def test_wrong_length_of_the_icons_fragment(tmp_path: Path, wrong: int) -> None:
    length = len(even(lossless_jpeg(levels(8)[:64, :64].copy(), 8, 1))) + wrong
    for damaged in (
        sequence(ICON, item(icon(length))),
        open_sequence(ICON, open_item(icon(length))),
        open_sequence(ICON, open_item(icon(delimiter=b""))),
    ):
        for file in both_images(ICON, damaged):
            check(tmp_path, file, None)


@pytest.mark.parametrize("junk", [bytes(64), bytes(range(64)), b"junk" * 20])
def test_junk_between_elements(tmp_path: Path, junk: bytes) -> None:
    for place in (ICON, REFERENCED):
        for file in both_images(place, junk):
            check(tmp_path, file, WRONG)


@pytest.mark.parametrize("wrong", [-2, 2, 7, 100, 5000])
def test_wrong_length_of_an_element(tmp_path: Path, wrong: int) -> None:
    name = b"Hospital of X."
    for file in both_images(REFERENCED, element(0x00081040, "LO", name, len(name) + wrong)):
        check(tmp_path, file, WRONG)


def test_element_without_vr_that_nothing_follows(tmp_path: Path) -> None:
    content = encoded(make(VALUES, 12, uid.ImplicitVRLittleEndian))
    at = content.index(b"\x28\0\x10\0\2\0\0\0")
    rows = content[at : at + 10]
    samples = b"\x28\0\2\0\2\0\0\0\1\0"
    # Junk, and behind it an element that a smaller tag follows.
    check(tmp_path, content[:at] + bytes(64) + rows + samples + content[at + 10 :], WRONG)


def test_what_follows_the_image_does_not_matter(tmp_path: Path) -> None:
    for tail in (bytes(3), bytes(5000), b"garbage" * 100):
        check(tmp_path, encoded(compressed()) + tail, "")
        check(tmp_path, encoded(make()) + tail, None)


def test_several_frames_are_no_fragments(tmp_path: Path) -> None:
    image = pixel_data(item(struct.pack("<2I", 0, len(JPEG) + 8)) + item(JPEG) * 2)
    with pytest.raises(CxrsegError, match="holds 2 frames"):
        read_bytes(tmp_path, file_of(compressed(), image))


def test_command_tells_of_the_repair(run_cxrseg, model, tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(encoded(compressed())[:-8])
    result = run_cxrseg(path, *model)
    assert result.code == 0 and "its sequence delimiter is missing" in result.out
    assert '"damaged_but_read"' in (tmp_path / "x.json").read_text()


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian])
@pytest.mark.parametrize("first", ["PixelData", "PixelRepresentation", "BitsStored"])
def test_elements_in_another_order(tmp_path: Path, syntax: str, first: str) -> None:
    """One element stands before all others: nothing is lost, and nothing is damaged."""
    file = parsed(encoded(make(syntax=syntax)))
    expected = read_bytes(tmp_path, file.encode())
    elements = sorted(file.elements, key=lambda each: each.tag != tag_for_keyword(first))
    found = read_bytes(tmp_path, replace(file, elements=tuple(elements)).encode())
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    assert found.flags == expected.flags
