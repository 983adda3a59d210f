from __future__ import annotations

import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import uid

from cxrseg.runtime import CxrsegError, read
from helpers.dicom.dicom_images import ENCODERS, bare, encoded, levels, lossless_jpeg, make, table

# Some of these files are made wrong on purpose, which pydicom warns of while writing.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")


def seeds() -> list[bytes]:
    small = levels(12)[:40, :48].copy()
    eight = levels(8)[:40, :48].copy()
    tables = {"VOILUTSequence": [table(0, list(range(4096)), 12)], "RescaleSlope": "2"}
    found = [
        encoded(make(small, RescaleIntercept="-5", PixelPaddingValue=3, **tables)),
        encoded(make(small, WindowCenter="2000", WindowWidth="900", PatientOrientation=["R", "F"])),
        encoded(make(eight, 8, uid.DeflatedExplicitVRLittleEndian)),
        encoded(make(small, syntax=uid.ExplicitVRBigEndian, PixelSpacing=[0.1, 0.1])),
        bare(make(small)),
        bare(make(small), implicit=False),
    ]
    for syntax, encode, _ in ENCODERS.values():
        found.append(encoded(make(small, 12, syntax, encode(small, 12))))
    jpeg = imagecodecs.jpeg_encode(eight)
    found.append(encoded(make(eight, 8, uid.JPEGBaseline8Bit, jpeg)))
    jpeg = imagecodecs.jpeg_encode(small, bitspersample=12)
    found.append(encoded(make(small, 12, uid.JPEGExtended12Bit, jpeg)))
    return found


SEEDS = seeds()

FUZZ = settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def check_reads_or_refuses(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        radiograph = read(path)
    except CxrsegError as error:
        assert "\n" not in str(error)
        return
    pixels = radiograph.pixels
    assert pixels.dtype == np.float32 and pixels.ndim == 2
    assert np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1


def test_seeds_are_sound(tmp_path: Path) -> None:
    for seed in SEEDS:
        (tmp_path / "x").write_bytes(seed)
        assert read(tmp_path / "x").size == (40, 48)


@FUZZ
@given(st.sampled_from(SEEDS), st.data())
def test_damaged_files_are_read_or_refused(
    tmp_path: Path, seed: bytes, data: st.DataObject
) -> None:
    content = bytearray(seed)
    near = st.one_of(st.integers(132, 1200), st.integers(0, len(seed) - 1))
    for place in data.draw(st.lists(near, max_size=8)):
        content[place % len(seed)] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(seed)), st.integers(1, len(seed))))
    check_reads_or_refuses(tmp_path / "fuzz", bytes(content[:end]))


@FUZZ
@given(
    st.sampled_from([bytes(128) + b"DICM", b"\x08\0\x05\0CS", b"\x08\0\x05\0\x0a\0\0\0"]),
    st.binary(max_size=400),
)
def test_random_bytes_are_read_or_refused(tmp_path: Path, head: bytes, tail: bytes) -> None:
    check_reads_or_refuses(tmp_path / "fuzz", head + tail)


def test_damaged_tables_do_not_end_the_process(tmp_path: Path) -> None:
    values = levels(12)
    frame = lossless_jpeg(values, 12, 1)
    assert b"\xff\xc4" in frame
    for marker in range(0xC0, 0xD0):
        damaged = frame.replace(b"\xff\xc4", bytes([0xFF, marker]))
        content = encoded(make(values, 12, uid.JPEGLosslessSV1, damaged))
        check_reads_or_refuses(tmp_path / "x", content)


def test_damaged_files_are_quiet(tmp_path: Path, capfd) -> None:
    capfd.readouterr()
    for number, seed in enumerate(SEEDS):
        content = bytearray(seed)
        for place in np.random.default_rng(number).integers(140, len(seed), 40):
            content[place] ^= 0x55
        check_reads_or_refuses(tmp_path / "x", bytes(content))
        check_reads_or_refuses(tmp_path / "x", seed[: len(seed) * 2 // 3])
    assert capfd.readouterr() == ("", "")


def test_deflated_garbage_is_refused(tmp_path: Path) -> None:
    dataset = encoded(make(syntax=uid.DeflatedExplicitVRLittleEndian))
    cut = dataset.index(b"1.2.840.10008.1.2.1.99") + 22
    bomb = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    tail = bomb.compress(bytes(1 << 20)) + bomb.flush()
    for rest in (b"garbage" * 30, tail):
        (tmp_path / "x").write_bytes(dataset[:cut] + rest)
        with pytest.raises(CxrsegError):
            read(tmp_path / "x")
