"""Reading training data, refusing what is unusable, and turning it into tensors."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.preprocess import Preprocessing, preprocess
from cxrseg.runtime.readers import read
from cxrseg.trainer.data.augment import AugmentRecipe, augmentation
from cxrseg.trainer.data.dataset import LungDataset, balanced_weights
from cxrseg.trainer.data.loaders import train_loader
from cxrseg.trainer.data.samples import (
    Sample,
    check_pair,
    label_map,
    of_split,
    read_mask,
    read_samples,
    summarize,
    tell_sides_apart,
)
from cxrseg.trainer.fit.run import check_pairs
from cxrseg.trainer.recipe import Recipe, StageRecipe
from helpers import phantoms

Gray = NDArray[np.uint8]
Row = dict[str, str]

SIZE = (60, 50)


def save(path: Path, pixels: Gray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def xray() -> Gray:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.asarray((3 * y + x) % 256, np.uint8)


def two_lungs(right: int = 1, left: int = 1) -> Gray:
    mask = np.zeros(SIZE, np.uint8)
    mask[10:50, 5:20] = right
    mask[10:50, 28:45] = left
    return mask


Table = Callable[..., Path]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Write a CSV of `rows`, and a valid pair for each that names ``x0.png`` and ``m0.png``."""

    def write(rows: Sequence[Row], columns: Sequence[str] = ()) -> Path:
        for row in rows:
            for kind, pixels in (("image", xray()), ("mask", two_lungs(1, 2))):
                if row.get(kind, "").endswith(".png"):
                    save(tmp_path / row[kind], pixels)
        path = tmp_path / "pairs.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns or list(rows[0]), extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write


def row(number: int = 0, split: str = "train", **more: str) -> Row:
    return {"image": f"x{number}.png", "mask": f"m{number}.png", "split": split, **more}


class TestFolder:
    def test_reads_all_splits(self, phantom_data: Path) -> None:
        samples = read_samples(phantom_data)
        assert summarize(samples) == {
            "xrays/fields/test": 4,
            "xrays/fields/train": 48,
            "xrays/fields/val": 8,
        }
        for sample in samples:
            assert sample.image.parent.parent.name == sample.split
            assert sample.image.stem == sample.mask.stem
            assert sample.mask.parent.name == "masks"

    def test_suffixes_may_differ_and_other_files_are_ignored(self, tmp_path: Path) -> None:
        save(tmp_path / "train/images/a.JPG", xray())
        save(tmp_path / "train/masks/a.png", two_lungs())
        (tmp_path / "train/images/Thumbs.db").write_bytes(b"x")
        (sample,) = read_samples(tmp_path)
        assert (sample.image.name, sample.mask.name) == ("a.JPG", "a.png")

    def test_missing_mask_is_refused(self, tmp_path: Path) -> None:
        save(tmp_path / "train/images/a.png", xray())
        with pytest.raises(CxrsegError, match=r"a\.png: no mask of that name"):
            read_samples(tmp_path)

    @pytest.mark.parametrize("inside", ["", "images", "train/pictures"])
    def test_folder_of_another_layout_is_refused(self, inside: str, tmp_path: Path) -> None:
        save(tmp_path / inside / "a.png", xray())
        with pytest.raises(CxrsegError, match=r"no X-ray .* expected .*images,masks"):
            read_samples(tmp_path)

    def test_missing_source_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(CxrsegError, match="no such file or folder"):
            read_samples(tmp_path / "none")


class TestTable:
    def test_reads_rows(self, table: Table) -> None:
        path = table([row(0, source="a", protocol="whole"), row(1, "val", source="b", protocol="")])
        first, second = read_samples(path)
        home = path.parent
        assert first == Sample(home / "x0.png", home / "m0.png", "train", "whole", "a")
        assert second == Sample(home / "x1.png", home / "m1.png", "val", "fields", "b")

    def test_group_without_a_column_is_the_name_of_the_table(self, table: Table) -> None:
        assert read_samples(table([row()]))[0].group == "pairs"

    def test_group_column_can_be_chosen(self, table: Table) -> None:
        path = table([row(source="a", hospital="h1")])
        assert read_samples(path, group_column="hospital")[0].group == "h1"

    def test_byte_order_mark_of_excel_is_no_part_of_a_name(self, table: Table) -> None:
        path = table([row()])
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert len(read_samples(path)) == 1

    @pytest.mark.parametrize("split", ["external", "", "Train", "holdout"])
    def test_other_splits_never_appear(self, split: str, table: Table) -> None:
        path = table([row(0), row(1, split)])
        samples = read_samples(path)
        assert [sample.image.name for sample in samples] == ["x0.png"]
        assert summarize(samples) == {"pairs/fields/train": 1}

    def test_files_of_external_rows_need_not_be_there(self, table: Table, tmp_path: Path) -> None:
        path = table([row(0), row(1, "external")])
        (tmp_path / "x1.png").unlink()
        assert len(read_samples(path)) == 1

    def test_only_external_rows_are_refused(self, table: Table) -> None:
        with pytest.raises(CxrsegError, match="no X-ray with a mask found"):
            read_samples(table([row(0, "external")]))

    def test_where_filters(self, table: Table) -> None:
        path = table(
            [
                row(i, source=s, kind=k)
                for i, (s, k) in enumerate([("a", "x"), ("b", "x"), ("a", "y")])
            ]
        )
        where = {"source": ["a"], "kind": ["x", "z"]}
        assert [s.image.name for s in read_samples(path, where)] == ["x0.png"]
        with pytest.raises(CxrsegError, match="no X-ray with a mask found"):
            read_samples(path, {"source": ["c"]})

    @pytest.mark.parametrize("missing", ["image", "mask", "split"])
    def test_missing_column_is_refused(self, missing: str, table: Table) -> None:
        path = table([row()], [name for name in row() if name != missing])
        with pytest.raises(CxrsegError, match=f"no column '{missing}'; there are"):
            read_samples(path)

    def test_missing_column_of_where_is_refused(self, table: Table) -> None:
        with pytest.raises(CxrsegError, match="no column 'clinic'"):
            read_samples(table([row()]), {"clinic": ["a"]})

    def test_unknown_protocol_is_refused(self, table: Table) -> None:
        path = table([row(0), row(1, protocol="heart")], ["image", "mask", "split", "protocol"])
        with pytest.raises(CxrsegError, match=r"line 3: unknown protocol 'heart'; use .*fields"):
            read_samples(path)

    @pytest.mark.parametrize("kind", ["image", "mask"])
    def test_missing_file_is_refused(self, kind: str, table: Table, tmp_path: Path) -> None:
        path = table([row(0), row(1)])
        (tmp_path / row(1)[kind]).unlink()
        with pytest.raises(CxrsegError, match=rf"{row(1)[kind]}: no such file \(line 3"):
            read_samples(path)

    def test_short_line_is_refused(self, tmp_path: Path) -> None:
        save(tmp_path / "x.png", xray())
        path = tmp_path / "pairs.csv"
        path.write_text("split,image,mask\ntrain,x.png\n")
        with pytest.raises(CxrsegError, match=r"no such file \(line 2"):
            read_samples(path)

    @pytest.mark.parametrize(
        "content", [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xfe", b"", b"\0\0\n\0"]
    )
    def test_other_files_are_refused(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "pairs.csv"
        path.write_bytes(content)
        with pytest.raises(CxrsegError, match=r"is not a CSV file|no column 'image'"):
            read_samples(path)


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

    def test_palette_image_counts_by_index(self, tmp_path: Path) -> None:
        image = Image.fromarray(two_lungs(1, 2))
        image.putpalette([9, 9, 9, 250, 0, 0, 0, 0, 250])
        image.save(tmp_path / "m.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "m.png", SIZE), two_lungs(1, 2))

    def test_one_bit_image(self, tmp_path: Path) -> None:
        Image.fromarray(two_lungs() > 0).save(tmp_path / "m.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "m.png", SIZE), two_lungs())

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
        with pytest.raises(CxrsegError, match="not a readable mask"):
            read_mask(tmp_path / "m.png", SIZE)

    def test_truncated_file_is_refused(self, tmp_path: Path) -> None:
        path = save(
            tmp_path / "m.png",
            np.asarray(np.random.default_rng(0).integers(0, 255, SIZE), np.uint8),
        )
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(CxrsegError, match="not a readable mask"):
            read_mask(path, SIZE)

    def test_pair_whose_image_is_none_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "x.png").write_text("x")
        save(tmp_path / "m.png", two_lungs())
        sample = Sample(tmp_path / "x.png", tmp_path / "m.png", "train", "fields", "g")
        with pytest.raises(CxrsegError, match=r"x\.png: is not an image"):
            check_pair(sample)

    def test_one_bad_pair_among_good_ones_is_found(self, table: Table, tmp_path: Path) -> None:
        samples = read_samples(table([row(i) for i in range(5)]))
        check_pairs(samples)
        save(tmp_path / "m3.png", two_lungs(0, 0))
        with pytest.raises(CxrsegError, match=r"m3\.png"):
            check_pairs(samples)


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

    def test_label_map_of_a_sample(self, tmp_path: Path) -> None:
        for name, mask, expected, sided in (
            ("map", two_lungs(1, 2), two_lungs(1, 2), True),
            ("binary", two_lungs(255, 255), two_lungs(1, 2), True),
            ("one", two_lungs(255, 0), two_lungs(1, 0), False),
        ):
            path = save(tmp_path / f"{name}.png", mask)
            found, told = label_map(Sample(path, path, "train", "fields", "g"), SIZE)
            assert told is sided, name
            np.testing.assert_array_equal(found, expected)


def sample_of(folder: Path, mask: Gray | None = None, protocol: Any = "fields") -> Sample:
    image = save(folder / "x.png", xray())
    labels = save(folder / "m.png", two_lungs(1, 2) if mask is None else mask)
    return Sample(image, labels, "train", protocol, "g")


class TestDataset:
    def test_item(self, tmp_path: Path) -> None:
        item = LungDataset([sample_of(tmp_path, protocol="whole")], Preprocessing(32))[0]
        shapes = {name: (tuple(value.shape), value.dtype) for name, value in item.items()}
        assert shapes == {
            "image": ((1, 32, 32), torch.float32),
            "mask": ((3, 32, 32), torch.float32),
            "sided": ((), torch.bool),
            "protocol": ((), torch.int64),
            "index": ((), torch.int64),
        }
        assert item["sided"] and item["protocol"] == 1
        assert float(item["image"].min()) == 0 and float(item["image"].max()) == 1
        mask = item["mask"]
        assert float(mask.min()) >= 0 and float(mask.max()) == pytest.approx(1, abs=1e-6)
        assert ((mask > 0) & (mask < 1)).any(), "a mask keeps its soft edges"
        torch.testing.assert_close(mask[0] + mask[1], mask[2])
        assert mask[0, 16].argmax() < mask[1, 16].argmax()
        share = (two_lungs() > 0).mean()
        assert float(mask[2].mean()) == pytest.approx(share, abs=0.01)

    def test_image_is_what_the_runtime_makes(self, tmp_path: Path) -> None:
        sample, spec = sample_of(tmp_path), Preprocessing(48, 2, 97)
        expected = preprocess(read(sample.image).pixels, spec)
        np.testing.assert_array_equal(LungDataset([sample], spec)[0]["image"][0], expected)

    def test_sides_not_told_leave_their_planes_empty(self, tmp_path: Path) -> None:
        item = LungDataset([sample_of(tmp_path, two_lungs(255, 0))], Preprocessing(32))[0]
        assert not item["sided"]
        assert item["mask"][:2].abs().max() == 0
        assert float(item["mask"][2].max()) == pytest.approx(1, abs=1e-6)

    def test_augmented_item_keeps_its_form(self, tmp_path: Path) -> None:
        everything = {
            name: 1
            for name in (
                "geometry",
                "crop",
                "gamma",
                "contrast",
                "noise",
                "blur",
                "occlusion",
                "invert",
            )
        }
        transform = augmentation(AugmentRecipe.model_validate(everything), 32)
        spec = Preprocessing(32)
        data = LungDataset([sample_of(tmp_path)], spec, transform)
        plain = LungDataset([sample_of(tmp_path)], spec)[0]
        torch.manual_seed(0)
        for _ in range(5):
            item = data[0]
            for name, value in plain.items():
                assert item[name].shape == value.shape and item[name].dtype == value.dtype
            for name in ("image", "mask"):
                assert float(item[name].min()) >= 0 and float(item[name].max()) <= 1
                assert item[name].isfinite().all()
            assert (item["image"] - plain["image"]).abs().max() > 0.1

    @pytest.mark.parametrize(
        "geometry",
        [
            {"rotation": 40},
            {"scale": 0.4},
            {"shift": 0.2},
            {"shear": 0.4},
            {"crop": 1},
            {"rotation": 20, "scale": 0.3, "shift": 0.1, "shear": 0.1, "crop": 1},
        ],
        ids=lambda options: "+".join(options),
    )
    def test_geometry_moves_image_and_mask_alike(self, geometry: dict[str, float]) -> None:
        off = dict.fromkeys(
            (
                "rotation",
                "scale",
                "shift",
                "shear",
                "crop",
                "gamma",
                "contrast",
                "noise",
                "blur",
                "occlusion",
                "invert",
            ),
            0.0,
        )
        transform = augmentation(
            AugmentRecipe.model_validate({**off, "geometry": 1, **geometry}), 64
        )
        blob = np.zeros((1, 64, 64), np.float32)
        blob[:, 12:30, 25:52] = 1
        moved = []
        for _ in range(8):
            both = transform({"image": blob.copy(), "mask": np.repeat(blob, 3, axis=0)})
            image, mask = np.asarray(both["image"]), np.asarray(both["mask"])
            for plane in mask:
                np.testing.assert_allclose(image[0], plane, atol=1e-4)
            moved.append(np.abs(image - blob).max())
        assert max(moved) > 0.5, "the blob must move"

    def test_gray_values_change_the_image_alone(self) -> None:
        recipe = AugmentRecipe(
            geometry=0,
            mirror=0,
            crop=0,
            gamma=1,
            contrast=1,
            noise=1,
            blur=1,
            occlusion=1,
            invert=1,
        )
        phantom = phantoms.draw(0, 64)
        image = (phantom.image / 255).astype(np.float32)[None]
        mask = np.repeat((phantom.mask > 0).astype(np.float32)[None], 3, axis=0)
        varied = augmentation(recipe, 64)({"image": image.copy(), "mask": mask.copy()})
        np.testing.assert_array_equal(np.asarray(varied["mask"]), mask)
        assert np.abs(np.asarray(varied["image"]) - image).max() > 0.1

    def test_augmentation_that_is_off_changes_nothing(self) -> None:
        recipe = AugmentRecipe(
            geometry=0,
            mirror=0,
            crop=0,
            gamma=0,
            contrast=0,
            noise=0,
            blur=0,
            occlusion=0,
            invert=0,
        )
        image = np.random.default_rng(0).random((1, 64, 64)).astype(np.float32)
        varied = augmentation(recipe, 64)({"image": image.copy(), "mask": image.copy()})
        np.testing.assert_array_equal(np.asarray(varied["image"]), image)

    @pytest.mark.parametrize("power", [0, 0.5, 1])
    def test_groups_count_as_a_power_of_their_size(self, power: float, tmp_path: Path) -> None:
        file = tmp_path / "x.png"
        samples = [Sample(file, file, "train", "fields", g) for g in "a" * 16 + "b" * 4 + "c"]
        weights = balanced_weights(samples, power)
        assert sum(weights[:16]) == pytest.approx(16**power * weights[-1])
        assert sum(weights[16:20]) == pytest.approx(4**power * weights[-1])
        assert len(of_split(samples, "val")) == 0


def test_augmentation_follows_the_seed(tmp_path: Path) -> None:
    """Equal seeds vary images alike, in workers too; other seeds do not."""
    mask = two_lungs()
    save(tmp_path / "x.png", np.random.default_rng(0).integers(0, 255, mask.shape, np.uint8))
    save(tmp_path / "m.png", mask)
    sample = Sample(tmp_path / "x.png", tmp_path / "m.png", "train", "fields", "g")
    recipe = Recipe.model_validate({"image_size": 64, "data": {"workers": 2}})

    def first_batches(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        stage = StageRecipe(epochs=1, images_per_epoch=8, batch_size=4)
        loader = train_loader(recipe, stage, [sample], Preprocessing(64))
        return [batch["image"] for batch in loader]

    one, same, other = first_batches(1), first_batches(1), first_batches(2)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[0], one[1]), "each worker varies in its own way"
