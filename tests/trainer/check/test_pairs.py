"""``cxrseg-train --check``, and what a training does about odd pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.trainer.check.pairs import Finding, check_pairs, look_at_all, too_many_odd
from cxrseg.trainer.check.sheet import TILES, write_sheet
from cxrseg.trainer.cli import SHEET
from cxrseg.trainer.data.samples import Sample, read_samples
from helpers.drawing import phantoms
from helpers.outcomes import Call, refused


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a data folder of 6 pairs."""
    phantoms.write_dataset(tmp_path / "xrays", {"train": 4, "val": 2}, 64, seed=100)
    return tmp_path / "xrays"


def masks(data: Path) -> list[Path]:
    return sorted(data.glob("*/masks/*"))


def change(path: Path, how: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change a mask file; its values are labels."""
    pixels = np.asarray(Image.open(path))
    Image.fromarray(np.ascontiguousarray(how(pixels), np.uint8)).save(path)


def invert(labels: np.ndarray) -> np.ndarray:
    return (labels == 0).astype(np.uint8)


class TestCheck:
    def test_sound_set(self, call_here: Call, data: Path, tmp_path: Path) -> None:
        done = call_here("train", "--check", data, "-o", tmp_path)
        assert (done.code, done.err) == (0, "")
        assert done.out.splitlines() == [
            "6 pairs: 0 cannot be used, 0 look odd",
            f"wrote {tmp_path / SHEET}",
        ]

    def test_one_odd_pair_is_named(self, call_here: Call, data: Path, tmp_path: Path) -> None:
        odd = masks(data)[1]
        change(odd, invert)
        done = call_here("train", "--check", data, "-o", tmp_path)
        assert done.code == 0
        assert f"{odd}: " in done.out and "it may be inverted" in done.out
        assert "6 pairs: 0 cannot be used, 1 look odd" in done.out

    def test_all_that_cannot_be_used_are_named(
        self, call_here: Call, data: Path, tmp_path: Path
    ) -> None:
        small, empty = masks(data)[:2]
        change(small, lambda labels: labels[:40])
        change(empty, np.zeros_like)
        done = call_here("train", "--check", data, "-o", tmp_path)
        assert done.code == 1
        assert [line.partition("; ")[0] for line in done.errors] == [
            f"error: {small}: the mask is 64 x 40, its image 64 x 64",
            f"error: {empty}: the mask is empty",
        ]
        assert "6 pairs: 2 cannot be used, 0 look odd" in done.out

    @pytest.mark.parametrize(
        ("how", "words"),
        [
            (invert, ": 6);"),
            (lambda labels: np.array([0, 2, 1], np.uint8)[labels], "lies right of the left lung"),
        ],
    )
    def test_set_that_is_wrong(
        self,
        how: Callable[[np.ndarray], np.ndarray],
        words: str,
        call_here: Call,
        data: Path,
        tmp_path: Path,
    ) -> None:
        for mask in masks(data):
            change(mask, how)
        for command in ("--check", "--method=full"):
            done = call_here("train", command, data, "-o", tmp_path / "run")
            refused(done, 1, "6 of 6 look wrong", words, "--check", "data.max_odd")
        assert (tmp_path / "run" / SHEET).is_file()
        assert not (tmp_path / "run/run.json").exists()

    def test_images_and_masks_swapped(self, call_here: Call, data: Path, tmp_path: Path) -> None:
        for split in ("train", "val"):
            (data / split / "images").rename(data / "there")
            (data / split / "masks").rename(data / split / "images")
            (data / "there").rename(data / split / "masks")
        done = call_here("train", data, "-o", tmp_path / "run", "--method", "full")
        refused(done, 1, str(masks(data)[0]), "check that images and masks are not swapped")

    def test_mask_of_one_split_is_enough(self, call_here: Call, data: Path, tmp_path: Path) -> None:
        for path in sorted((data / "val").rglob("*.png")):
            path.unlink()
        assert call_here("train", "--check", data, "-o", tmp_path).code == 0

    def test_smooth_edges_are_told(self, call_here: Call, data: Path, tmp_path: Path) -> None:
        for mask in masks(data):
            small = Image.open(mask).point(lambda label: 255 * (label > 0)).resize((32, 32))
            small.resize((64, 64), Image.Resampling.BILINEAR).save(mask)
        done = call_here("train", "--check", data, "-o", tmp_path)
        assert done.code == 0
        assert "of its values lie between those of the labels and 5 more masks" in done.out

    def test_colors_are_told_in_the_recipe(
        self, call_here: Call, data: Path, tmp_path: Path
    ) -> None:
        colors = np.array([[255, 255, 255], [200, 0, 0], [0, 0, 200]], np.uint8)
        for mask in masks(data):
            change(mask, lambda labels: colors[labels])
        done = call_here("train", "--check", data, "-o", tmp_path)
        assert done.code == 1 and done.err.count("data.colors") == 6
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(
            "data: {colors: {right: [200, 0, 0], left: [0, 0, 200], background: [[255, 255, 255]]}}"
        )
        done = call_here("train", "--check", data, "-o", tmp_path, "--recipe", recipe)
        assert done.code == 0 and "0 cannot be used, 0 look odd" in done.out

    def test_file_of_somebody_else_is_kept(
        self, call_here: Call, data: Path, tmp_path: Path
    ) -> None:
        (tmp_path / SHEET).write_text("mine")
        done = call_here("train", "--check", data, "-o", tmp_path)
        refused(done, 1, SHEET, "was not written by cxrseg")
        assert (tmp_path / SHEET).read_text() == "mine"
        (tmp_path / SHEET).unlink()
        for _ in range(2):
            assert call_here("train", "--check", data, "-o", tmp_path).code == 0


class TestTraining:
    def test_odd_pairs_are_named_and_trained_on(
        self, data: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        change(masks(data)[0], invert)
        check_pairs(read_samples(data), max_odd=0.5)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"warning: {masks(data)[0]}: ")

    def test_many_are_not_all_named(
        self, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("cxrseg.trainer.check.pairs.MAX_NAMED", 2)
        for mask in masks(data):
            change(mask, invert)
        check_pairs(read_samples(data), max_odd=1)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 3
        assert "4 more" in lines[2] and "--check" in lines[2]

    def test_share_that_stops(self, data: Path) -> None:
        for mask in masks(data)[:3]:
            change(mask, invert)
        check_pairs(read_samples(data), max_odd=0.5)
        with pytest.raises(CxrsegError, match="3 of 6 look wrong"):
            check_pairs(read_samples(data), max_odd=0.4)

    def test_one_source_that_is_wrong_stops(self) -> None:
        def findings(name: str, count: int, odd: int) -> list[Finding]:
            sample = Sample(Path("x"), Path("m"), "train", "fields", name)
            return [Finding(sample, ("odd",) if i < odd else ()) for i in range(count)]

        good = findings("a", 100, 2)
        stop = too_many_odd([*good, *findings("b", 10, 6)], 0.5)
        assert stop is not None and "masks of b: 6 of 10 look wrong" in str(stop)
        assert too_many_odd([*good, *findings("b", 10, 5)], 0.5) is None
        assert too_many_odd([*good, *findings("b", 9, 9)], 0.5) is None, "too few to judge"


def test_sheet_shows_odd_pairs_first_and_others_too(data: Path, tmp_path: Path) -> None:
    change(masks(data)[5], invert)
    findings = list(look_at_all(read_samples(data)))
    assert write_sheet(findings, tmp_path / "s.png") == 6
    sheet = np.asarray(Image.open(tmp_path / "s.png")).astype(int)
    assert sheet.shape[1] % 8 == 0
    side = sheet.shape[1] // 8
    red = (sheet[..., 0] > sheet[..., 1] + 100) & (sheet[..., 0] > sheet[..., 2] + 100)
    words = red[side:]
    assert words[:, :side].any() and not words[:, side:].any()
    assert write_sheet(findings * 20, tmp_path / "s.png") == TILES
    assert write_sheet([], tmp_path / "none.png") == 0
    assert not (tmp_path / "none.png").exists()
