"""Uniform borders do not change what is found in an X-ray."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cxrseg.runtime import Radiograph, Segmenter
from cxrseg.runtime.core.borders import inside_borders
from cxrseg.runtime.core.orientation import Orientation
from helpers.drawing.phantoms import blocks, draw

SEED = 3
"""Of a phantom without a collimator, whose margins are no border themselves."""

CHEST = draw(SEED, (256, 240)).image.astype(np.float32) / 255
Sides = tuple[tuple[int, int], tuple[int, int]]

SIDES: list[Sides] = [
    ((0, 0), (100, 100)),
    ((0, 150), (0, 0)),
    ((40, 10), (5, 200)),
    ((400, 400), (400, 400)),
]


def padded(sides: Sides, gray: float = 1) -> np.ndarray:
    return np.pad(CHEST, sides, constant_values=gray)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("gray", [0, 0.4, 1])
def test_border_of_any_gray_is_found(sides: Sides, gray: float) -> None:
    (top, _), (left, _) = sides
    rows, columns = slice(top, top + 256), slice(left, left + 240)
    assert inside_borders(padded(sides, gray)) == (rows, columns)


@pytest.mark.parametrize(("gray", "found"), [(0, False), (0.2, True), (1, True)])
def test_narrow_border_counts_if_it_is_not_black(gray: float, found: bool) -> None:
    inside = slice(48, 304), slice(3, 243)
    whole = slice(0, 350), slice(0, 250)
    assert inside_borders(padded(((48, 46), (3, 7)), gray)) == (inside if found else whole)


def test_image_without_a_border_is_left_whole() -> None:
    assert inside_borders(CHEST) == (slice(0, 256), slice(0, 240))
    # Words that were burned into it make it none.
    written = padded(((0, 0), (60, 60)))
    written[100:110, [10, -10]] = 0
    assert inside_borders(written) != (slice(0, 256), slice(60, 300))
    assert inside_borders(written)[1] == slice(10, 351)


def test_borders_lie_in_each_other() -> None:
    framed = np.pad(padded(((20, 20), (80, 80)), 0), ((9, 7), (0, 50)), constant_values=1)
    assert inside_borders(framed) == (slice(29, 285), slice(80, 320))
    framed = np.pad(padded(((0, 0), (80, 80)), 0), ((9, 7), (0, 0)), constant_values=1)
    assert inside_borders(framed) == (slice(9, 265), slice(80, 320))
    framed = np.pad(padded(((20, 20), (30, 30)), 1), ((9, 7), (0, 50)), constant_values=0)
    assert inside_borders(framed) == (slice(29, 285), slice(30, 270))


def test_border_of_a_jpeg_is_found() -> None:
    file = io.BytesIO()
    gray = (padded(((0, 0), (96, 160))) * 255).astype(np.uint8)
    Image.fromarray(gray).save(file, "JPEG", quality=75)
    pixels = np.asarray(Image.open(file), np.float32) / 255
    rows, columns = inside_borders(pixels)
    assert rows == slice(0, 256)
    assert 88 <= columns.start <= 96 and 96 + 240 <= columns.stop <= 96 + 248


def test_dead_pixel_changes_nothing() -> None:
    pixels = padded(((0, 0), (100, 100)), 0) / 100
    pixels[128, 150] = 1
    assert inside_borders(pixels) == (slice(0, 256), slice(100, 340))


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((100, 90), np.float32),
        blocks().astype(np.float32) / 255,
        # All but a corner is border.
        np.pad(CHEST[:20, :200], ((300, 0), (0, 100))),
    ],
    ids=["one gray", "drawing", "hardly anything inside"],
)
def test_what_is_no_border_is_left(pixels: np.ndarray) -> None:
    height, width = pixels.shape
    assert inside_borders(pixels) == (slice(0, height), slice(0, width))


@pytest.fixture(scope="module")
def shipped() -> Segmenter:
    return Segmenter(device="cpu", threads=1)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("gray", [0, 1])
def test_mask_and_flags_are_those_of_the_image_without(
    sides: Sides, gray: float, shipped: Segmenter
) -> None:
    plain = shipped.segment(Radiograph(CHEST))
    framed = shipped.segment(Radiograph(padded(sides, gray)))
    (top, _), (left, _) = sides
    inside = framed.mask[top : top + 256, left : left + 240]
    np.testing.assert_array_equal(inside, plain.mask)
    assert np.count_nonzero(framed.mask) == np.count_nonzero(plain.mask) > 10_000
    assert (framed.area_px, framed.probability) == (plain.area_px, plain.probability)
    assert [flag.code for flag in framed.flags] == [flag.code for flag in plain.flags]
    expected = f"240 x 256 pixels from column {left}, row {top}"
    assert framed.provenance["content"] == expected and "content" not in plain.provenance


def test_padding_leaves_a_black_border_that_the_network_knows(shipped: Segmenter) -> None:
    known = padded(((0, 12), (9, 0)), 0)
    plain = shipped.segment(Radiograph(known))
    framed = np.pad(known, ((30, 40), (0, 200)), constant_values=1)
    assert inside_borders(framed) == (slice(30, 298), slice(0, 249))
    mask = shipped.segment(Radiograph(framed)).mask
    np.testing.assert_array_equal(mask[30:298, :249], plain.mask)


def test_border_of_a_turned_image_is_left_out_as_well(shipped: Segmenter) -> None:
    plain = shipped.segment(Radiograph(CHEST)).mask
    turned = np.fliplr(padded(((0, 70), (0, 0))))
    mask = shipped.segment(Radiograph(turned, orientation=Orientation("R", "F"))).mask
    np.testing.assert_array_equal(np.fliplr(mask)[:256], plain)
    assert not mask[256:].any()
