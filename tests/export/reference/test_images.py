from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from cxrseg.export.reference.images import read_images
from cxrseg.runtime.core.errors import CxrsegError

ROWS = """\
image,split,source,patient,protocol
a.png,train,x,p1,fields
a.png,train,x,p1,whole
b.png,val,x,,fields
c.png,test,x,p3,fields
d.png,train,,p4,fields
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for name in "abcd":
        (tmp_path / f"{name}.png").write_bytes(b"")
    path = tmp_path / "pairs.csv"
    path.write_text(ROWS)
    return path


def test_rows_of_the_splits_to_fit_each_image_once(table: Path) -> None:
    found = read_images(table)
    assert [image.path for image in found] == [table.parent / f"{x}.png" for x in "adb"]
    assert [(x.source, x.patient) for x in found] == [("x", "p1"), ("images", "p4"), ("x", "b.png")]


def test_rows_are_narrowed_down(table: Path) -> None:
    assert [x.name for x in read_images(table, where={"source": ["x"]})] == ["a.png", "b.png"]
    assert [x.name for x in read_images(table, ["test"])] == ["c.png"]
    assert [x.name for x in read_images(table, limit=1)] == ["a.png", "d.png", "b.png"]


def test_absolute_paths_of_the_same_name_are_different_images(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "1.png" for folder in "ab"]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(b"")
    table = tmp_path / "pairs.csv"
    table.write_text("image,split\n" + "".join(f"{path},train\n" for path in paths))
    images = read_images(table)
    assert [image.path for image in images] == paths
    assert len({image.patient for image in images}) == 2


def test_columns_of_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CxrsegError, match="--where"):
        read_images(tmp_path, where={"source": ["x"]})


def test_data_folder_needs_no_table(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "images").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / split / "images/1.png"), np.zeros((9, 9), np.uint8))
    (found,) = read_images(tmp_path)
    assert (found.name, found.source) == ("train/images/1.png", tmp_path.name)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("image,patient\na.png,p\n", "has no column 'split'"),
        ("image,split\ngone.png,val\n", "no such image file"),
        ("image,split\na.png,test\n", "has no image of the split train or val"),
    ],
)
def test_table_that_cannot_be_used(table: Path, text: str, cause: str) -> None:
    table.write_text(text)
    with pytest.raises(CxrsegError, match=cause):
        read_images(table)


def test_absolute_path_is_not_told(table: Path) -> None:
    table.write_text(f"image,split\n{table.parent / 'a.png'},val\n")
    assert [x.name for x in read_images(table)] == ["a.png"]
