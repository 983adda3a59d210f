from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset

from cxrseg.runtime import read
from cxrseg.runtime.core.preprocess import window
from helpers.dicom.dicom_images import PHANTOM, codes, levels, make, rgb, save, table, unit

# Some of these files are made wrong on purpose, which pydicom warns of while writing.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")


def test_monochrome1_is_inverted(read_made) -> None:
    values = levels(12)
    negative = (4095 - values).astype("<u2")
    for shape in ({}, {"PresentationLUTShape": "INVERSE"}):
        radiograph = read_made(negative, PhotometricInterpretation="MONOCHROME1", **shape)
        np.testing.assert_allclose(radiograph.pixels, unit(values), atol=1e-6)
        assert radiograph.flags == ()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (None, lambda x: (x - (1999.5)) / 999 + 0.5),
        ("LINEAR", lambda x: (x - (1999.5)) / 999 + 0.5),
        ("LINEAR_EXACT", lambda x: (x - 2000) / 1000 + 0.5),
        ("SIGMOID", lambda x: 1 / (1 + np.exp(-4 * (x - 2000) / 1000))),
    ],
)
def test_first_window_is_applied(read_made, function: str | None, expected) -> None:
    values = levels(12)
    window = {"WindowCenter": ["2000", "100"], "WindowWidth": ["1000", "5"]}
    options = window | ({} if function is None else {"VOILUTFunction": function})
    shown = np.clip(expected(values.astype(float)), 0, 1)
    np.testing.assert_allclose(read_made(**options).pixels, unit(shown), atol=1e-5)
    negative = read_made(
        (4095 - values).astype("<u2"),
        PhotometricInterpretation="MONOCHROME1",
        RescaleSlope="-1",
        RescaleIntercept="4095",
        **options,
    )
    # The rescale turns values around once, MONOCHROME1 again; then the pixels say otherwise.
    assert codes(negative) == ["photometric_lies"]
    np.testing.assert_allclose(negative.pixels, unit(shown), atol=1e-5)


@pytest.mark.parametrize("width", ["0", "-5", "", "wide", "NaN"])
def test_window_that_means_nothing_is_ignored(tmp_path: Path, width: str) -> None:
    dataset = make(WindowCenter="0002000 ")
    dataset.add_new("WindowWidth", "LO", width)
    np.testing.assert_allclose(
        read(save(dataset, tmp_path / "x.dcm")).pixels, unit(levels(12)), atol=1e-6
    )


def test_window_that_leaves_nothing_is_ignored(read_made) -> None:
    radiograph = read_made(WindowCenter="60000", WindowWidth="10")
    np.testing.assert_allclose(radiograph.pixels, unit(levels(12)), atol=1e-6)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
def test_lookup_tables(read_made, keyword: str, bits: int) -> None:
    values = levels(12)
    entries = np.sqrt(np.linspace(0, 1, 3000)) * (2**bits - 1)
    entries = entries.astype(int)
    expected = entries[np.clip(values.astype(int) - 500, 0, 2999)]
    radiograph = read_made(**{keyword: [table(500, entries.tolist(), bits)]})
    np.testing.assert_allclose(radiograph.pixels, unit(expected), atol=1e-6)
    # A table goes before a window, and the window sees what the modality gave.
    both = read_made(**{keyword: [table(500, entries.tolist(), bits)]}, WindowCenter="1")
    np.testing.assert_array_equal(both.pixels, radiograph.pixels)


def test_empty_lookup_table_is_ignored(read_made) -> None:
    assert read_made(VOILUTSequence=[Dataset()]).size == PHANTOM.shape


def test_lookup_table_of_signed_values(read_made) -> None:
    values = levels(12, signed=True)
    entries = (np.linspace(0, 1, 4096) ** 2 * 65535).astype(int)
    expected = entries[values.astype(int) + 2048]
    radiograph = read_made(values, VOILUTSequence=[table(-2048, entries.tolist(), 16, True)])
    np.testing.assert_allclose(radiograph.pixels, unit(expected), atol=1e-6)


def test_table_goes_before_the_inversion(read_made) -> None:
    values = levels(12)
    entries = np.sqrt(np.linspace(0, 1, 4096)) * 4095
    shown = entries.astype(int)[4095 - values]
    radiograph = read_made(
        (4095 - values).astype("<u2"),
        PhotometricInterpretation="MONOCHROME1",
        VOILUTSequence=[table(0, entries.astype(int).tolist(), 12)],
    )
    np.testing.assert_allclose(radiograph.pixels, 1 - unit(shown), atol=1e-6)


@pytest.mark.parametrize("border", [0, 4095])
def test_burned_border_does_not_change_the_contrast(read_made, border: int) -> None:
    values = levels(12)
    framed = np.pad(values, ((30, 10), (20, 40)), constant_values=border)
    seen = window(read_made(framed).pixels, 0.5, 99.5)[30:-10, 20:-40]
    np.testing.assert_allclose(seen, window(read_made(values).pixels, 0.5, 99.5), atol=0.01)


def test_padding_is_black_and_does_not_count(read_made) -> None:
    values = np.maximum(levels(12, signed=True), -1900)
    padded = values.copy()
    padded[:20], padded[20:24] = -2000, -1990
    truth = unit(values[24:])
    for photometric, sign in (("MONOCHROME2", 1), ("MONOCHROME1", -1)):
        pixels = read_made(
            (padded * sign).astype("<i2"),
            PhotometricInterpretation=photometric,
            PixelPaddingValue=-2000 * sign,
            PixelPaddingRangeLimit=-1990 * sign,
        ).pixels
        assert (pixels[:24] == 0).all()
        np.testing.assert_allclose(pixels[24:], truth, atol=1e-3)


def test_image_of_padding_alone_is_kept(read_made) -> None:
    flat = np.full((100, 100), 7, "<u2")
    assert (read_made(flat, PixelPaddingValue=7).pixels == 0).all()


@pytest.mark.parametrize("kind", ["RGB", "YBR", "planar", "JPEG", "palette", "RLE"])
def test_gray_in_color_is_accepted(read_made, kind: str) -> None:
    gray = levels(8)
    pixels, options, atol = rgb(gray), {"SamplesPerPixel": 3, "PlanarConfiguration": 0}, 1e-6
    photometric, syntax, frame = "RGB", str(uid.ExplicitVRLittleEndian), None
    if kind == "YBR":
        pixels[:, :, 1:] = 128
        photometric, atol = "YBR_FULL", 0.01
    elif kind == "planar":
        data = np.moveaxis(pixels, 2, 0).tobytes()
        options |= {"PlanarConfiguration": 1, "PixelData": data}
    elif kind == "JPEG":
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
        photometric, syntax, frame = "YBR_FULL_422", uid.JPEGBaseline8Bit, buffer.getvalue()
        atol = 0.05
    elif kind == "RLE":
        plain = make(pixels, 8, PhotometricInterpretation="RGB", **options)
        plain.compress(uid.RLELossless, generate_instance_uid=False)
        frame = next(pydicom.encaps.generate_frames(plain.PixelData, number_of_frames=1))
        syntax = uid.RLELossless
    elif kind == "palette":
        pixels, photometric, options = gray, "PALETTE COLOR", {}
        entries = (np.arange(256) * 257).astype("<u2").tobytes()
        for color in ("Red", "Green", "Blue"):
            options[f"{color}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
            options[f"{color}PaletteColorLookupTableData"] = entries
    radiograph = read_made(
        pixels, 8, syntax, frame, PhotometricInterpretation=photometric, **options
    )
    np.testing.assert_allclose(radiograph.pixels, unit(gray), atol=atol)
    assert radiograph.size == gray.shape
