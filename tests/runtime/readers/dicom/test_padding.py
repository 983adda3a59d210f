"""Pixel padding counts where it is padding: a value at the border that is not tissue's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cxrseg.runtime import Segmenter, read
from helpers.dicom.dicom_images import codes, levels, make, save, unit
from helpers.drawing import phantoms

PHANTOM = phantoms.draw(1, (256, 240))


def saturated(share: float) -> NDArray[np.uint16]:
    """Return the phantom with this share of its pixels at the largest value."""
    values = PHANTOM.image / 255
    values = values / np.quantile(values, 1 - share)
    return (np.clip(values, 0, 1) * 4095).round().astype("<u2")


def darkened(share: float) -> NDArray[np.uint16]:
    """Return the phantom with this share of its pixels at 0."""
    values = PHANTOM.image / 255
    low = np.quantile(values, share)
    return (np.clip((values - low) / (1 - low), 0, 1) * 4095).round().astype("<u2")


VIEWS = {
    "MONOCHROME2": (lambda x: x, lambda x: x),
    "MONOCHROME1": (lambda x: (4095 - x).astype("<u2"), lambda x: 4095 - x),
}


@pytest.mark.parametrize("photometric", VIEWS)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.25])
def test_saturated_tissue_is_no_padding(read_made, photometric: str, share: float) -> None:
    view, value = VIEWS[photometric]
    pixels = saturated(share)
    options = {"PhotometricInterpretation": photometric}
    without = read_made(view(pixels), **options)
    padded = read_made(view(pixels), PixelPaddingValue=value(4095), **options)
    differs = padded.pixels != without.pixels
    # Some single pixels at the border.
    assert differs.mean() < 0.001
    assert not differs[40:200, 40:200].any()
    assert codes(padded) == codes(without)


@pytest.mark.parametrize("photometric", VIEWS)
def test_black_lungs_are_no_padding(read_made, photometric: str) -> None:
    view, value = VIEWS[photometric]
    pixels = darkened(0.3)
    padded = read_made(
        view(pixels), PixelPaddingValue=value(0), PhotometricInterpretation=photometric
    )
    np.testing.assert_allclose(padded.pixels, unit(pixels), atol=1e-6)


def framed(pixels: NDArray[np.uint16], value: int) -> NDArray[np.uint16]:
    out = np.full((320, 300), value, "<u2")
    out[40:296, 20:260] = pixels
    return out


@pytest.mark.parametrize("photometric", VIEWS)
@pytest.mark.parametrize("border", [0, 4095])
def test_frame_becomes_black_and_tissue_of_its_value_stays(
    read_made, photometric: str, border: int
) -> None:
    view, value = VIEWS[photometric]
    pixels = saturated(0.1) if border else darkened(0.2)
    # Tissue of the same value does not reach the frame.
    pixels[[0, -1]] = pixels[:, [0, -1]] = 2000
    radiograph = read_made(
        view(framed(pixels, border)),
        PixelPaddingValue=value(border),
        PhotometricInterpretation=photometric,
    )
    inside = radiograph.pixels[40:296, 20:260]
    np.testing.assert_allclose(inside, unit(pixels), atol=1e-6)
    outside = np.ones((320, 300), bool)
    outside[40:296, 20:260] = False
    assert (radiograph.pixels[outside] == 0).all()


def test_range_and_sign(tmp_path: Path) -> None:
    pixels = levels(12, signed=True)
    values = np.pad(np.maximum(pixels, -1900), ((30, 0), (0, 0)), constant_values=-2000)
    for told in (-2000, 65_536 - 2000):
        dataset = make(values.astype("<i2"))
        dataset.add_new("PixelPaddingValue", "SS" if told < 0 else "US", told)
        dataset.add_new("PixelPaddingRangeLimit", "SS", -1950)
        radiograph = read(save(dataset, tmp_path / "x.dcm"))
        assert (radiograph.pixels[:30] == 0).all()
        np.testing.assert_allclose(
            radiograph.pixels[30:], unit(np.maximum(pixels, -1900)), atol=1e-6
        )


@pytest.mark.parametrize("value", ["", "none"])
def test_padding_value_that_is_no_number(tmp_path: Path, value: str) -> None:
    dataset = make()
    dataset.add_new("PixelPaddingValue", "LO", value)
    radiograph = read(save(dataset, tmp_path / "x.dcm"))
    np.testing.assert_allclose(radiograph.pixels, unit(levels(12)), atol=1e-6)


def test_mask_of_a_saturated_image(tmp_path: Path) -> None:
    segmenter = Segmenter(device="cpu", threads=1)
    view, value = VIEWS["MONOCHROME1"]
    told = {"PhotometricInterpretation": "MONOCHROME1"}
    masks = [
        segmenter.segment(save(make(view(saturated(0.1)), **told, **padding), tmp_path / "x.dcm"))
        for padding in ({}, {"PixelPaddingValue": value(4095)})
    ]
    assert [flag.code for flag in masks[1].flags] == [flag.code for flag in masks[0].flags]
    for label in (1, 2):
        truth, found = PHANTOM.mask == label, masks[1].mask == label
        assert 2 * (truth & found).sum() / (truth.sum() + found.sum()) > 0.97
