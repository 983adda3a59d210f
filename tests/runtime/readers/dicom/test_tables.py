"""Lookup tables as machines write them: used where they can be, else left out and told."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset

from cxrseg.runtime import CxrsegError, read
from helpers.dicom.dicom_images import encoded, levels, make, save, unit

# Some of these files are made wrong on purpose, which pydicom warns of while writing.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")

VALUES = levels(12)
CURVE = np.linspace(0, 1, 4096) ** 0.7
TWELVE = (CURVE * 4095).astype("<u2")
EIGHT = (CURVE * 255).astype("u1")
PLAIN = unit(VALUES)
SHOWN = unit(TWELVE[VALUES])


def table(descriptor: list[int], data: bytes, vr: str = "OW") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if min(descriptor) < 0 else "US", descriptor)
    item.add_new("LUTData", vr, data)
    return item


def typed(vr: str, descriptor: object, data: bytes = TWELVE.tobytes()) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", vr, descriptor)
    item.add_new("LUTData", "OB" if vr == "OB" else "OW", data)
    return item


USED = {
    "bits 8, packed": (table([4096, 0, 8], EIGHT.tobytes()), unit(EIGHT[VALUES]), ""),
    "bits 8, in words": (
        table([4096, 0, 8], EIGHT.astype("<u2").tobytes()),
        unit(EIGHT[VALUES]),
        "",
    ),
    "bits 8, an odd number": (
        table([4095, 0, 8], EIGHT[:4095].tobytes()),
        unit(EIGHT[np.minimum(VALUES, 4094)]),
        "",
    ),
    "too many told": (table([8192, 0, 12], TWELVE.tobytes()), SHOWN, "has 4096 entries, not 8192"),
    "0 told": (table([0, 0, 12], TWELVE.tobytes()), SHOWN, "has 4096 entries, not 65536"),
    "too few told": (
        table([4000, 0, 12], TWELVE.tobytes()),
        unit(TWELVE[np.minimum(VALUES, 3999)]),
        "",
    ),
    "0 bits": (table([4096, 0, 0], TWELVE.tobytes()), SHOWN, ""),
    "99 bits": (table([4096, 0, 99], TWELVE.tobytes()), SHOWN, ""),
    "8 bits told, 12 used": (table([4096, 0, 8], TWELVE.tobytes()), SHOWN, ""),
    "no bits told": (typed("US", [4096, 0]), SHOWN, ""),
    "descriptor as bytes": (typed("OB", struct.pack("<3H", 4096, 0, 12)), SHOWN, ""),
}


@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize("name", USED)
def test_unusual_table_is_used(read_made, name: str, keyword: str) -> None:
    item, shown, note = USED[name]
    radiograph = read_made(VALUES, **{keyword: [item]})
    np.testing.assert_allclose(radiograph.pixels, shown, atol=1e-6)
    told = radiograph.provenance.get("voi_lut", radiograph.provenance.get("modality_lut", ""))
    assert told == (f"used: it {note}" if note else "")
    assert radiograph.flags == ()


IGNORED = {
    "no entries": (table([4096, 0, 12], b""), "it has no entries"),
    "one entry": (table([1, 0, 12], b"\1\0"), "its entries are all the same"),
    "equal entries": (table([4096, 0, 12], b"\1\0" * 4096), "its entries are all the same"),
    "text": (typed("LO", "a\\b\\c"), "its descriptor is no descriptor"),
    "descriptor of one": (typed("US", [4096]), "its descriptor is no descriptor"),
}


@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize("name", IGNORED)
def test_useless_table_is_left_out_and_told(read_made, name: str, keyword: str) -> None:
    item, reason = IGNORED[name]
    radiograph = read_made(VALUES, **{keyword: [item]})
    np.testing.assert_allclose(radiograph.pixels, PLAIN, atol=1e-6)
    key = "voi_lut" if keyword == "VOILUTSequence" else "modality_lut"
    assert radiograph.provenance[key] == f"ignored: {reason}"


def test_table_for_other_values_is_left_out(read_made) -> None:
    small = np.arange(256, dtype="<u2").tobytes()
    for descriptor, data in (([4096, 50_000, 12], TWELVE.tobytes()), ([256, 0, 8], small)):
        radiograph = read_made(VALUES, VOILUTSequence=[table(descriptor, data)])
        np.testing.assert_allclose(radiograph.pixels, PLAIN, atol=1e-6)
        assert radiograph.provenance["voi_lut"] == "ignored: it hides most of the image"


def test_next_table_or_window_is_taken(read_made) -> None:
    empty, good = table([4096, 0, 12], b""), table([4096, 0, 12], TWELVE.tobytes())
    np.testing.assert_allclose(
        read_made(VALUES, VOILUTSequence=[empty, good]).pixels, SHOWN, atol=1e-6
    )
    window = {"WindowCenter": "2048", "WindowWidth": "3000"}
    np.testing.assert_array_equal(
        read_made(VALUES, VOILUTSequence=[empty], **window).pixels,
        read_made(VALUES, **window).pixels,
    )


@pytest.mark.parametrize("first", [-2048, 65_536 - 2048])
def test_sign_of_the_first_value(read_made, first: int) -> None:
    item = table([4096, first, 12], TWELVE.tobytes())
    signed = read_made(levels(12, signed=True), VOILUTSequence=[item])
    np.testing.assert_allclose(signed.pixels, SHOWN, atol=1e-6)
    rescaled = {"RescaleSlope": "1", "RescaleIntercept": "-2048"}
    unsigned = read_made(VALUES, VOILUTSequence=[item], **rescaled)
    np.testing.assert_allclose(unsigned.pixels, SHOWN, atol=1e-6)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRBigEndian, uid.ImplicitVRLittleEndian])
def test_byte_order_of_entries(read_made, syntax: str) -> None:
    order = ">u2" if syntax == uid.ExplicitVRBigEndian else "<u2"
    item = table([4096, 0, 12], TWELVE.astype(order).tobytes())
    radiograph = read_made(VALUES, 12, syntax, VOILUTSequence=[item])
    np.testing.assert_allclose(radiograph.pixels, SHOWN, atol=1e-6)


@pytest.mark.parametrize("wrong", [-1000, -4, 4, 1000, 1 << 20])
def test_wrong_lengths_around_a_table(tmp_path: Path, wrong: int) -> None:
    content = encoded(make(VALUES, VOILUTSequence=[table([4096, 0, 12], TWELVE.tobytes())]))
    at = content.index(b"\x28\0\x10\x30SQ")
    for place in (at + 8, at + 16):
        length = struct.unpack_from("<I", content, place)[0] + wrong
        path = tmp_path / "x.dcm"
        path.write_bytes(content[:place] + struct.pack("<I", length) + content[place + 4 :])
        radiograph = read(path)
        # The table is used, as far as it is there, or left out.
        distance = min(np.abs(radiograph.pixels - truth).max() for truth in (PLAIN, SHOWN))
        assert distance < 1e-6 or "3596 entries" in str(radiograph.provenance["voi_lut"])


def palette(descriptor: list[int], data: bytes) -> dict[str, object]:
    told: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for color in ("Red", "Green", "Blue"):
        told[f"{color}PaletteColorLookupTableDescriptor"] = descriptor
        told[f"{color}PaletteColorLookupTableData"] = data
    return told


@pytest.mark.parametrize("bits", [8, 16])
def test_palettes(read_made, tmp_path: Path, bits: int) -> None:
    gray = np.arange(256)
    for data in (
        *([gray.astype("u1").tobytes(), gray.astype("<u2").tobytes()] if bits == 8 else []),
        (gray * 257).astype("<u2").tobytes(),
    ):
        for count in (256, 0) if len(data) > 256 else (256,):
            radiograph = read_made(levels(8), 8, **palette([count, 0, bits], data))
            np.testing.assert_allclose(radiograph.pixels, unit(levels(8)), atol=1e-6)
    path = save(make(levels(8), 8, PhotometricInterpretation="PALETTE COLOR"), tmp_path / "p.dcm")
    with pytest.raises(CxrsegError, match="damaged"):
        read(path)
