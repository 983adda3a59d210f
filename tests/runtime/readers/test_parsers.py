"""What is parsed beside images, given anything at all: a value or the one error, nothing else."""

from __future__ import annotations

import io
import json
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.fileset import FileSet
from pydicom.uid import DeflatedExplicitVRLittleEndian

from cxrseg.runtime import CxrsegError
from cxrseg.runtime.core.model_card import ModelCard
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.runtime.files.own_files import is_ours
from cxrseg.runtime.readers import dicomdir
from cxrseg.runtime.readers.folders import scan
from cxrseg.runtime.writers.dicom_source import read_origin
from helpers.dicom.damaged import element, item
from helpers.dicom.patient import chest

FUZZ = settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a DICOMDIR of two images."""
    folder = tmp_path_factory.mktemp("medium")
    media = FileSet()
    for number in (1, 2):
        dataset = chest(SOPInstanceUID=f"1.2.{number}", SeriesNumber=1, InstanceNumber=number)
        media.add(dataset)
    media.write(folder)
    return (folder / "DICOMDIR").read_bytes()


def check_listing(folder: Path, content: bytes) -> int:
    """Read a DICOMDIR; return how many images it stands for."""
    path = folder / "DICOMDIR"
    path.write_bytes(content)
    found = 0
    for each in scan(path):
        if isinstance(each, CxrsegError):
            assert "\n" not in str(each) and each.remedy
        else:
            assert each.path.resolve().is_relative_to(folder.resolve())
            found += 1
    return found


def test_whole_listing(tmp_path: Path, listing: bytes) -> None:
    assert check_listing(tmp_path, listing) == 2


@FUZZ
@given(data=st.data())
def test_damaged_listing(tmp_path: Path, listing: bytes, data: st.DataObject) -> None:
    content = bytearray(listing)
    for place in data.draw(st.lists(st.integers(132, len(listing) - 1), max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(listing)), st.integers(1, len(listing))))
    check_listing(tmp_path, bytes(content[:end]))


@FUZZ
@given(st.lists(st.text(max_size=12), max_size=4))
def test_listed_names(tmp_path: Path, parts: list[str]) -> None:
    dataset = chest(PixelData=None)
    record = chest(PixelData=None)
    record.DirectoryRecordType = "IMAGE"
    record.add_new("ReferencedFileID", "LO", parts)
    dataset.DirectoryRecordSequence = [record]
    # Letters that the file's character set lacks are written as it can.
    dataset.SpecificCharacterSet = "ISO_IR 192"
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    check_listing(tmp_path, buffer.getvalue())


@FUZZ
@given(
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", bytes(128) + b"DICM", b'{"program": "cxrseg']),
    st.binary(max_size=300),
)
def test_files_of_others_are_not_ours(tmp_path: Path, head: bytes, tail: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(head + tail)
    marks = (b"Software\0cxrseg", b'"program": "cxrseg ')
    assert not is_ours(path) or any(mark in head + tail for mark in marks)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
CARD = json.loads(ModelCard("x", "1", ("right_lung",), Preprocessing(64)).to_json())


@FUZZ
@given(st.dictionaries(st.sampled_from([*CARD, "other"]), JSON, max_size=3))
def test_model_card_is_read_or_refused(changes: dict[str, object]) -> None:
    text = json.dumps(CARD | changes)
    try:
        card = ModelCard.from_json(text)
    # What the loading of a model tells in one line.
    except (ValueError, OverflowError):
        return
    assert ModelCard.from_json(card.to_json()).to_json() == card.to_json()


@FUZZ
@given(st.text(max_size=60))
def test_text_is_no_model_card(text: str) -> None:
    with pytest.raises(ValueError):
        ModelCard.from_json(text)


def deflated(body: bytes) -> bytes:
    """Return a DICOM file with this data set, deflated."""
    empty = chest(PixelData=None)
    empty.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = io.BytesIO()
    empty.save_as(buffer, enforce_file_format=True)
    syntax = str(DeflatedExplicitVRLittleEndian).encode()
    start = buffer.getvalue().index(syntax) + len(syntax)
    pack = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return buffer.getvalue()[:start] + pack.compress(body) + pack.flush()


RECORDS = 0x00041220

BOMBS = {
    "zeros": lambda: element(0x00090010, "OB", bytes(80 << 20)),
    "empty records": lambda: element(RECORDS, "SQ", item(b"") * 30_000),
    "empty records without a length": lambda: element(
        RECORDS, "SQ", item(b"") * 30_000, 0xFFFFFFFF
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_listing_that_unpacks_without_end(tmp_path: Path, name: str, monkeypatch) -> None:
    monkeypatch.setattr(dicomdir, "MAX_ELEMENTS", 20_000)
    path = tmp_path / "DICOMDIR"
    path.write_bytes(deflated(BOMBS[name]()))
    assert path.stat().st_size < 300_000
    tracemalloc.start()
    try:
        (error,) = scan(path)
        # Nor does it cost more where an output of that name is looked at, or its header.
        assert not is_ours(path)
        with pytest.raises(CxrsegError):
            read_origin(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(error, CxrsegError) and "damaged or too large" in str(error)
    assert peak < 200 << 20


def test_deflated_listing(tmp_path: Path) -> None:
    record = element(0x00041430, "CS", b"IMAGE") + element(0x00041500, "CS", b"A\\IMAGE1")
    path = tmp_path / "DICOMDIR"
    path.write_bytes(deflated(element(RECORDS, "SQ", item(record) * 3)))
    assert check_listing(tmp_path, path.read_bytes()) == 3


@pytest.mark.parametrize("wrong", [-8, 8, 100, 100_000])
def test_listing_with_wrong_lengths(tmp_path: Path, wrong: int) -> None:
    record = element(0x00041430, "CS", b"IMAGE") + element(0x00041500, "CS", b"A\\IMAGE1")
    told = item(record, len(record) + wrong) + item(record)
    assert check_listing(tmp_path, deflated(element(RECORDS, "SQ", told))) == 2
