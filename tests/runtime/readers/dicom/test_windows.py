"""Windows that hide the image they are meant to show."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.dicom.dicom_images import levels, unit

HIDES = "ignored: it hides most of the image"


def window(values: NDArray, center: float, width: float) -> NDArray[np.float64]:
    """Return what a linear window shows (PS3.3 C.11.2.1.2)."""
    return unit(np.clip((values.astype(float) - (center - 0.5)) / (width - 1) + 0.5, 0, 1))


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_of_eight_bits_on_deeper_values(read_made, bits: int, function: str) -> None:
    values = levels(bits)
    radiograph = read_made(
        values, bits, WindowCenter="128", WindowWidth="256", VOILUTFunction=function
    )
    np.testing.assert_allclose(radiograph.pixels, unit(values), atol=1e-6)
    assert radiograph.provenance["window"] == HIDES


def test_window_of_eight_bits_where_it_belongs(read_made) -> None:
    eight = read_made(levels(8), 8, WindowCenter="128", WindowWidth="256")
    np.testing.assert_allclose(eight.pixels, window(levels(8), 128, 256), atol=1e-5)
    rescaled = {"RescaleSlope": "0.0625", "RescaleIntercept": "0"}
    twelve = read_made(levels(12), WindowCenter="128", WindowWidth="256", **rescaled)
    np.testing.assert_allclose(twelve.pixels, window(levels(12) / 16, 128, 256), atol=1e-5)
    assert "window" not in eight.provenance | twelve.provenance


@pytest.mark.parametrize("first", [("128", "256"), ("60000", "10"), ("-500", "100"), ("5", "0")])
def test_first_window_that_shows_the_image(read_made, first: tuple[str, str]) -> None:
    radiograph = read_made(
        levels(12),
        WindowCenter=[first[0], "2048", "1000"],
        WindowWidth=[first[1], "3500", "4000"],
    )
    np.testing.assert_allclose(radiograph.pixels, window(levels(12), 2048, 3500), atol=1e-5)
    told = "number 2 is used: those before hide most of the image"
    assert radiograph.provenance["window"] == told


def test_first_of_two_that_show_it(read_made) -> None:
    radiograph = read_made(levels(12), WindowCenter=["2048", "2000"], WindowWidth=["3500", "4000"])
    np.testing.assert_allclose(radiograph.pixels, window(levels(12), 2048, 3500), atol=1e-5)
    assert "window" not in radiograph.provenance


def test_fewer_widths_than_centers(read_made) -> None:
    radiograph = read_made(levels(12), WindowCenter=["128", "2048"], WindowWidth="256")
    np.testing.assert_allclose(radiograph.pixels, unit(levels(12)), atol=1e-6)


def test_background_does_not_count(read_made) -> None:
    # Most of the picture is collimated; a narrow window on the rest is meant so.
    values = levels(12)
    framed = np.full((500, 450), 4095, "<u2")
    framed[150:350, 135:315] = np.minimum(values, 4094)
    radiograph = read_made(framed, WindowCenter="2048", WindowWidth="3000")
    np.testing.assert_allclose(radiograph.pixels, window(framed, 2048, 3000), atol=1e-5)


def test_both_polarities(read_made) -> None:
    negative = (4095 - levels(12)).astype("<u2")
    radiograph = read_made(
        negative, PhotometricInterpretation="MONOCHROME1", WindowCenter="128", WindowWidth="256"
    )
    np.testing.assert_allclose(radiograph.pixels, unit(levels(12)), atol=1e-6)
    assert radiograph.flags == ()
