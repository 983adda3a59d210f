"""Masks: which files are masks, and which lung is which."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.trainer.check.pairs import check_pairs
from cxrseg.trainer.check.plausibility import ALL_LEFT, oddities
from cxrseg.trainer.data.masks import open_mask, tell_sides_apart
from cxrseg.trainer.data.samples import Sample, read_samples
from helpers.pairs import SIZE, Gray, Table, row, save, two_lungs, xray


def read_mask(path: Path, size: tuple[int, int]) -> Gray:
    return open_mask(path, size).labels


def save_few_bits(path: Path, mask: Gray, bits: int) -> Path:
    """Write a gray PNG of fewer than 8 bits, which Pillow does not."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    each = np.unpackbits(mask[..., None], axis=2)[..., 8 - bits :]
    lines = np.packbits(each.reshape(len(mask), -1), axis=1)
    header = struct.pack(">IIBBBBB", mask.shape[1], len(mask), bits, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


class TestMask:
    @pytest.mark.parametrize(
        ("mask", "expected"),
        [
            (two_lungs(1, 2), two_lungs(1, 2)),
            (two_lungs(1, 1), two_lungs(1, 1)),
            (two_lungs(255, 255), two_lungs(1, 1)),
            (two_lungs(0, 2), two_lungs(0, 2)),
            (two_lungs(245, 255), two_lungs(1, 1)),
        ],
        ids=["label map", "0/1", "0/255", "left lung alone", "gray"],
    )
    def test_values(self, mask: Gray, expected: Gray, tmp_path: Path) -> None:
        found = read_mask(save(tmp_path / "m.png", mask), SIZE)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)

    def test_one_bit_image(self, tmp_path: Path) -> None:
        Image.fromarray(two_lungs() > 0).save(tmp_path / "m.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "m.png", SIZE), two_lungs())

    @pytest.mark.parametrize("bits", [2, 4])
    @pytest.mark.parametrize("values", [(1, 2), (1, 1), (0, 2)])
    def test_gray_of_few_bits(self, values: tuple[int, int], bits: int, tmp_path: Path) -> None:
        """A viewer shows 2 of 3 as 170, and 2 of 15 as 34."""
        mask = two_lungs(*values)
        path = save_few_bits(tmp_path / "m.png", mask, bits)
        gray = np.asarray(Image.open(path).convert("L"))
        assert gray.max() == int(mask.max()) * 255 // (2**bits - 1)
        expected = mask > 0 if bits == 2 and 0 in values else mask
        np.testing.assert_array_equal(read_mask(path, SIZE), expected)

    @pytest.mark.parametrize("value", [3, 5])
    def test_other_values_of_few_bits_are_refused(self, value: int, tmp_path: Path) -> None:
        with pytest.raises(CxrsegError, match="are lung is not told"):
            read_mask(save_few_bits(tmp_path / "m.png", two_lungs(1, value), 4), SIZE)

    def test_jpeg_artifacts_are_forgiven(self, tmp_path: Path) -> None:
        path = save(tmp_path / "m.jpg", two_lungs(255, 255))
        assert (read_mask(path, SIZE) != two_lungs()).mean() < 0.01

    def test_another_size_is_refused(self, tmp_path: Path) -> None:
        path = save(tmp_path / "m.png", two_lungs())
        with pytest.raises(CxrsegError, match="mask is 50 x 60, its image 60 x 50"):
            read_mask(path, (50, 60))

    def test_empty_mask_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(CxrsegError, match="the mask is empty"):
            read_mask(save(tmp_path / "m.png", two_lungs(0, 0)), SIZE)

    def test_photograph_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(CxrsegError, match="neither a binary mask nor a label map"):
            read_mask(save(tmp_path / "m.png", xray()), SIZE)

    @pytest.mark.parametrize("values", [(1, 3), (3, 3), (2, 4)])
    def test_other_values_never_give_an_empty_mask(
        self, values: tuple[int, int], tmp_path: Path
    ) -> None:
        path = save(tmp_path / "m.png", two_lungs(*values))
        try:
            found = read_mask(path, SIZE)
        except CxrsegError:
            return
        np.testing.assert_array_equal(found > 0, two_lungs() > 0)

    @pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
    def test_unreadable_file_is_refused(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "m.png").write_bytes(content)
        with pytest.raises(CxrsegError, match=r"is empty|is no picture|is damaged"):
            read_mask(tmp_path / "m.png", SIZE)

    def test_truncated_file_is_refused(self, tmp_path: Path) -> None:
        path = save(
            tmp_path / "m.png",
            np.asarray(np.random.default_rng(0).integers(0, 255, SIZE), np.uint8),
        )
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(CxrsegError, match="is damaged"):
            read_mask(path, SIZE)

    def test_pair_whose_image_is_none_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "x.png").write_text("x")
        save(tmp_path / "m.png", two_lungs())
        sample = Sample(tmp_path / "x.png", tmp_path / "m.png", "train", "fields", "g")
        with pytest.raises(CxrsegError, match=r"x\.png: is not an image"):
            check_pairs([sample], max_odd=1)

    def test_one_bad_pair_among_good_ones_is_found(self, table: Table, tmp_path: Path) -> None:
        samples = read_samples(table([row(i) for i in range(5)]))
        check_pairs(samples, max_odd=1)
        save(tmp_path / "m3.png", two_lungs(0, 0))
        with pytest.raises(CxrsegError, match=r"m3\.png"):
            check_pairs(samples, max_odd=1)


class TestSides:
    def test_two_parts(self) -> None:
        np.testing.assert_array_equal(tell_sides_apart(two_lungs()), two_lungs(1, 2))

    def test_right_lung_is_on_the_left_whatever_is_larger(self) -> None:
        mask = two_lungs()
        mask[10:35, 28:45] = 0
        sided = tell_sides_apart(mask)
        assert sided is not None
        np.testing.assert_array_equal(sided == 1, (mask > 0) & (two_lungs(1, 0) > 0))
        np.testing.assert_array_equal(
            tell_sides_apart(np.fliplr(mask)), 3 * np.fliplr(mask) - np.fliplr(sided)
        )

    def test_touching_lungs(self) -> None:
        mask = two_lungs()
        mask[20, 20:28] = 1
        assert tell_sides_apart(mask) is None

    def test_corners_touch(self) -> None:
        mask = np.zeros(SIZE, np.uint8)
        mask[10:20, 10:20] = 1
        mask[20:30, 20:30] = 1
        assert tell_sides_apart(mask) is None

    @pytest.mark.parametrize("values", [(1, 0), (0, 1), (0, 0)])
    def test_less_than_two_lungs(self, values: tuple[int, int]) -> None:
        assert tell_sides_apart(two_lungs(*values)) is None

    def test_lung_and_a_crumb(self) -> None:
        mask = two_lungs(1, 0)
        mask[30:33, 40:43] = 1
        assert tell_sides_apart(mask) is None

    def test_crumbs_join_the_nearer_lung(self) -> None:
        mask = two_lungs()
        mask[55, 8] = mask[55, 47] = 1
        sided = tell_sides_apart(mask)
        assert sided is not None
        assert (sided[55, 8], sided[55, 47]) == (1, 2)
        np.testing.assert_array_equal(sided > 0, mask > 0)

    def test_three_large_parts(self) -> None:
        mask = two_lungs()
        mask[28:32, 5:20] = 0
        assert tell_sides_apart(mask) is None

    def test_two_lungs_that_are_called_left_are_named(self) -> None:
        pixels = 1 - two_lungs().astype(np.float32)
        assert oddities(two_lungs(2, 2), pixels, True) == (ALL_LEFT,)
        assert oddities(two_lungs(1, 2), pixels, True) == ()
