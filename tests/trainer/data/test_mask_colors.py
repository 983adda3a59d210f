"""Masks as people save them: alpha, palettes, colors, depths, smooth edges. Seen is what counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import LABELS
from cxrseg.trainer.data.masks import Mask, open_mask
from cxrseg.trainer.recipe import ColorRecipe
from helpers.drawing import phantoms

SIZE = (128, 120)
LABEL_MAP = phantoms.draw(1, SIZE).mask
UNION = (LABEL_MAP > 0).astype(np.uint8)

RED, GREEN, BLUE, WHITE, BLACK = (
    *((255, 0, 0), (0, 255, 0), (0, 0, 255)),
    *((255, 255, 255), (0, 0, 0)),
)


def colored(*colors: tuple[int, int, int], labels: np.ndarray = LABEL_MAP) -> np.ndarray:
    """Return RGB: the colors of background, right lung and left lung."""
    return np.array(colors, np.uint8)[labels]


def gray(*values: float, dtype: Any = np.uint8) -> np.ndarray:
    return np.array(values, dtype)[LABEL_MAP]


def smoothed(pixels: np.ndarray, times: int = 1) -> np.ndarray:
    """Return what a viewer's smooth resizing makes of a mask."""
    for _ in range(times):
        small = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        pixels = cv2.resize(small, SIZE[::-1], interpolation=cv2.INTER_LINEAR)
    return pixels


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Mask]:
    """Save pixels and read them as a mask."""

    def opened(pixels: np.ndarray, suffix: str = "png", told: Any = None, **options: Any) -> Mask:
        path = tmp_path / f"m.{suffix}"
        Image.fromarray(pixels).save(path, **options)
        colors = None if told is None else ColorRecipe.model_validate(told)
        return open_mask(path, SIZE, colors)

    return opened


Opened = Callable[..., Mask]


class TestAlpha:
    def test_shape_in_alpha_alone(self, opened: Opened) -> None:
        pixels = np.dstack([colored(WHITE, WHITE, WHITE), UNION * 255])
        np.testing.assert_array_equal(opened(pixels).labels, UNION)

    @pytest.mark.parametrize("alpha", [255, 140, 40])
    def test_faint_drawing(self, alpha: int, opened: Opened) -> None:
        pixels = np.dstack([colored(RED, RED, RED), UNION * np.uint8(alpha)])
        np.testing.assert_array_equal(opened(pixels).labels, UNION)

    def test_gray_with_alpha(self, opened: Opened) -> None:
        pixels = np.dstack([UNION * 255, np.full(SIZE, 255, np.uint8)])
        np.testing.assert_array_equal(opened(pixels).labels, UNION)

    def test_label_map_on_a_clear_ground(self, opened: Opened) -> None:
        mask = opened(np.dstack([LABEL_MAP, UNION * 255]))
        np.testing.assert_array_equal(mask.labels, LABEL_MAP)

    def test_hidden_colors_do_not_count(self, opened: Opened) -> None:
        """What a program leaves where nothing is drawn."""
        noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
        pixels = np.where(UNION[..., None] > 0, np.uint8(255), noise)
        np.testing.assert_array_equal(opened(np.dstack([pixels, UNION * 255])).labels, UNION)

    def test_tiff(self, opened: Opened) -> None:
        pixels = np.dstack([colored(WHITE, WHITE, WHITE), UNION * 255])
        np.testing.assert_array_equal(opened(pixels, "tif").labels, UNION)

    @pytest.mark.parametrize(
        ("color", "alpha", "words"),
        [
            (BLACK, UNION * 255, "is black where it is not transparent"),
            (WHITE, UNION * 0, "is transparent all over"),
            (
                WHITE,
                (1 - UNION) * 255,
                "what it shows around a transparent part may be lung or not",
            ),
            (WHITE, gray(0, 120, 255), "is transparent in several degrees"),
            (WHITE, smoothed(UNION * 255, 40), "is transparent in several degrees"),
        ],
        ids=["black", "clear", "hole", "degrees", "gradient"],
    )
    def test_unclear(self, color: Any, alpha: np.ndarray, words: str, opened: Opened) -> None:
        pixels = np.dstack([colored(color, color, color), alpha])
        with pytest.raises(CxrsegError, match=rf"m\.png: {words}.*; save it as 8-bit PNG"):
            opened(pixels)


class TestPalette:
    @staticmethod
    def indexed(indices: np.ndarray, *colors: tuple[int, int, int]) -> Image.Image:
        image = Image.fromarray(indices)
        image.putpalette([part for color in colors for part in color])
        return image

    def test_white_as_index_0(self, tmp_path: Path) -> None:
        for name in ("a.png", "a.bmp", "a.tif"):
            self.indexed(1 - UNION, WHITE, BLACK).save(tmp_path / name)
            np.testing.assert_array_equal(open_mask(tmp_path / name, SIZE).labels, UNION)

    def test_as_pillow_quantizes(self, tmp_path: Path) -> None:
        Image.fromarray(UNION * 255).convert("RGB").quantize(2).save(tmp_path / "a.png")
        np.testing.assert_array_equal(open_mask(tmp_path / "a.png", SIZE).labels, UNION)

    def test_label_values_in_any_order(self, tmp_path: Path) -> None:
        image = self.indexed(
            np.array([2, 0, 1], np.uint8)[LABEL_MAP], *((i, i, i) for i in (1, 2, 0))
        )
        image.save(tmp_path / "a.png")
        np.testing.assert_array_equal(open_mask(tmp_path / "a.png", SIZE).labels, LABEL_MAP)

    def test_masks_of_cxrseg_run(self, tmp_path: Path) -> None:
        own = {label.value: label.color for label in LABELS}
        self.indexed(LABEL_MAP, BLACK, own[1], own[2]).save(tmp_path / "a.png")
        np.testing.assert_array_equal(open_mask(tmp_path / "a.png", SIZE).labels, LABEL_MAP)

    def test_untold_colors(self, tmp_path: Path) -> None:
        self.indexed(LABEL_MAP, BLACK, (128, 0, 0), (0, 128, 0)).save(tmp_path / "a.png")
        with pytest.raises(CxrsegError, match=r"#800000.* lung is not told; .*data\.colors"):
            open_mask(tmp_path / "a.png", SIZE)


class TestColors:
    @pytest.mark.parametrize("color", [RED, GREEN, BLUE, (255, 255, 0), (128, 0, 0)])
    def test_one_color_on_black(self, color: Any, opened: Opened) -> None:
        np.testing.assert_array_equal(opened(colored(BLACK, color, color)).labels, UNION)

    @pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "jpg"])
    def test_told_sides(self, suffix: str, opened: Opened) -> None:
        told = {"right": RED, "left": GREEN}
        mask = opened(colored(BLACK, RED, GREEN), suffix, told)
        assert (mask.labels != LABEL_MAP).mean() <= (0.02 if suffix == "jpg" else 0)

    def test_told_lungs_beside_other_structures(self, opened: Opened) -> None:
        pixels = colored(WHITE, RED, RED)
        pixels[100:110, 50:70] = BLUE
        mask = opened(pixels, told={"lungs": RED, "background": [WHITE, BLUE]})
        np.testing.assert_array_equal(mask.labels, UNION)

    def test_told_gray_values(self, opened: Opened) -> None:
        told = {"right": (2, 2, 2), "left": (1, 1, 1)}
        np.testing.assert_array_equal(opened(gray(0, 2, 1), told=told).labels, LABEL_MAP)

    def test_plain_masks_need_no_telling(self, opened: Opened) -> None:
        told = {"right": RED, "left": GREEN}
        for pixels, labels in ((UNION * 255, UNION), (LABEL_MAP, LABEL_MAP), (UNION, UNION)):
            np.testing.assert_array_equal(opened(pixels, told=told).labels, labels)

    @pytest.mark.parametrize(
        "pixels",
        [
            colored(BLACK, RED, GREEN),
            colored(WHITE, RED, GREEN),
            colored(WHITE, RED, RED),
            gray(0, 85, 255),
            gray(0, 3, 4),
            np.where(cv2.dilate(UNION, np.ones((3, 3))) > UNION, 255, LABEL_MAP).astype(np.uint8),
        ],
        ids=["sides", "on white", "one on white", "three grays", "small", "void border"],
    )
    def test_untold_colors_are_named(self, pixels: np.ndarray, opened: Opened) -> None:
        with pytest.raises(CxrsegError, match=r"m\.png: which of its colors .* is not told"):
            opened(pixels)

    @pytest.mark.parametrize(
        "told",
        [
            {},
            {"right": RED},
            {"right": RED, "left": RED},
            {"right": RED, "left": GREEN, "lungs": BLUE},
            {"lungs": BLACK},
            {"lungs": RED, "background": []},
            {"lungs": (256, 0, 0)},
            {"lungs": "red"},
        ],
    )
    def test_recipe_that_makes_no_sense(self, told: Any) -> None:
        with pytest.raises(ValueError, match=r"colors|each color once|tell right|lungs"):
            ColorRecipe.model_validate(told)


class TestScales:
    @pytest.mark.parametrize(
        ("values", "dtype"),
        [
            ((0, 1, 1), np.uint8),
            ((0, 255, 255), np.uint8),
            ((0, 200, 200), np.uint8),
            ((0, 255, 255), np.uint16),
            ((0, 65535, 65535), np.uint16),
            ((0, 4095, 4095), np.uint16),
            ((0, 1, 1), np.int32),
            ((0, 1, 1), np.float32),
            ((0, 255, 255), np.float32),
        ],
    )
    def test_binary(self, values: Any, dtype: Any, opened: Opened) -> None:
        pixels = gray(*values, dtype=dtype)
        np.testing.assert_array_equal(opened(pixels, "tif").labels, UNION)

    @pytest.mark.parametrize(
        ("values", "dtype"),
        [
            ((0, 1, 2), np.uint8),
            ((0, 128, 255), np.uint8),
            ((0, 127, 255), np.uint8),
            ((0, 100, 200), np.uint8),
            ((0, 1, 2), np.uint16),
            ((0, 32768, 65535), np.uint16),
            ((0, 1, 2), np.float32),
            ((0, 0.5, 1), np.float32),
        ],
    )
    def test_label_map(self, values: Any, dtype: Any, opened: Opened) -> None:
        pixels = gray(*values, dtype=dtype)
        np.testing.assert_array_equal(opened(pixels, "tif").labels, LABEL_MAP)

    @pytest.mark.parametrize(
        ("values", "dtype"),
        [
            ((0, -1, -1), np.int32),
            ((0, 100000, 100000), np.int32),
            ((0, np.nan, 1), np.float32),
            ((0, np.inf, 1), np.float32),
            ((0, 1.5, 2), np.float32),
        ],
    )
    def test_no_mask_has_such_values(self, values: Any, dtype: Any, opened: Opened) -> None:
        with pytest.raises(CxrsegError, match=r"m\.tif: has values"):
            opened(gray(*values, dtype=dtype), "tif")

    @pytest.mark.parametrize("value", [0, 255])
    def test_one_value_alone(self, value: int, opened: Opened) -> None:
        with pytest.raises(CxrsegError, match=r"the mask is empty|the mask has no background"):
            opened(np.full(SIZE, value, np.uint8))


class TestEdges:
    @pytest.mark.parametrize("color", [WHITE, RED])
    def test_smooth_edges_are_cut_at_half(self, color: Any, opened: Opened) -> None:
        mask = opened(smoothed(colored(BLACK, color, color)))
        assert (mask.labels != UNION).mean() < 0.01
        assert 0.01 < mask.between < 0.15

    @pytest.mark.parametrize("quality", [30, 75, 95])
    def test_jpeg(self, quality: int, opened: Opened) -> None:
        mask = opened(UNION * 255, "jpg", quality=quality)
        assert (mask.labels != UNION).mean() < 0.01

    @pytest.mark.parametrize("values", [(0, 1, 2), (0, 1, 1), (0, 2, 2)])
    def test_jpeg_of_small_values(self, values: Any, opened: Opened) -> None:
        with pytest.raises(CxrsegError, match=r"m\.jpg: (is JPEG|the mask is empty|which of its)"):
            opened(gray(*values), "jpg")

    @pytest.mark.parametrize("suffix", ["png", "jpg"])
    def test_label_map_with_blended_edges(self, suffix: str, opened: Opened) -> None:
        """The edge of what is white would become an outline of the other lung."""
        pixels = gray(0, 128, 255)
        with pytest.raises(CxrsegError, match="label values are blended"):
            opened(smoothed(pixels) if suffix == "png" else pixels, suffix)

    def test_soft_mask_is_refused(self, opened: Opened) -> None:
        with pytest.raises(CxrsegError, match="neither a binary mask nor a label map"):
            opened(smoothed(UNION * 255, 60))

    def test_several_pages(self, tmp_path: Path) -> None:
        page = Image.fromarray(UNION * 255)
        page.save(tmp_path / "m.tif", save_all=True, append_images=[page])
        with pytest.raises(CxrsegError, match=r"m\.tif: .*several pages"):
            open_mask(tmp_path / "m.tif", SIZE)

    def test_dicom(self, tmp_path: Path) -> None:
        (tmp_path / "m.dcm").write_bytes(bytes(128) + b"DICM" + bytes(100))
        with pytest.raises(CxrsegError, match=r"m\.dcm: is DICOM; give a PNG"):
            open_mask(tmp_path / "m.dcm", SIZE)


@pytest.mark.parametrize("turn", [2, 3, 6, 8])
def test_exif_orientation(turn: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = turn
    stored = {2: np.fliplr, 3: lambda x: np.rot90(x, 2), 6: np.rot90, 8: lambda x: np.rot90(x, -1)}
    pixels = np.ascontiguousarray(stored[turn](LABEL_MAP))
    Image.fromarray(pixels).save(tmp_path / "m.png", exif=exif)
    np.testing.assert_array_equal(open_mask(tmp_path / "m.png", SIZE).labels, LABEL_MAP)
    if turn > 4:
        Image.fromarray(pixels).save(tmp_path / "m.png")
        with pytest.raises(CxrsegError, match=r"may be turned by its Exif orientation"):
            open_mask(tmp_path / "m.png", SIZE)
