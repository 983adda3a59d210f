"""Folders and tables of training data: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.trainer.data.samples import (
    Sample,
    read_samples,
    spread,
    summarize,
)
from helpers.pairs import Table, row, save, two_lungs, xray


def test_spread_is_even_and_in_order() -> None:
    assert spread(range(10), 3) == [0, 3, 6]
    assert spread(range(3), 3) == spread(range(3), 9) == spread(range(3), None) == [0, 1, 2]
    assert spread(range(3), 0) == []


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

    def test_hearts_are_found_by_their_stems(self, tmp_path: Path) -> None:
        for stem in ("a", "b"):
            save(tmp_path / f"train/images/{stem}.png", xray())
            save(tmp_path / f"train/masks/{stem}.png", two_lungs())
        save(tmp_path / "train/hearts/b.tif", two_lungs())
        hearts = {sample.image.stem: sample.heart for sample in read_samples(tmp_path)}
        assert hearts == {"a": None, "b": tmp_path / "train/hearts/b.tif"}

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
        with pytest.raises(CxrsegError, match=rf"{row(1)[kind]}: no such {kind} file \(line 3"):
            read_samples(path)

    def test_short_line_is_refused(self, tmp_path: Path) -> None:
        save(tmp_path / "x.png", xray())
        path = tmp_path / "pairs.csv"
        path.write_text("split,image,mask\ntrain,x.png\n")
        with pytest.raises(CxrsegError, match=r"line 2 names no mask"):
            read_samples(path)

    @pytest.mark.parametrize(
        "content", [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xfe", b"", b"\0\0\n\0"]
    )
    def test_other_files_are_refused(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "pairs.csv"
        path.write_bytes(content)
        with pytest.raises(CxrsegError, match=r"is not a CSV file|no column 'image'"):
            read_samples(path)
