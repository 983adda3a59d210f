from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import click
import pytest

from cxrseg.benchmarks.harness.options import DataOptions, ImageOptions, RowOptions
from cxrseg.benchmarks.harness.samples import (
    Sample,
    csv_facts,
    grouping,
    list_images,
    model_facts,
    read_samples,
)
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.inference.loading import load_model


def samples(data: Path, **options: Any) -> list[Sample]:
    return read_samples(data, RowOptions(**options))


def names(data: Path, **options: Any) -> list[str]:
    return [sample.name for sample in samples(data, **options)]


def test_rows_of_a_split(data: Path) -> None:
    assert names(data) == [f"images/{n}.png" for n in (1, 2, 3, 4)]
    assert names(data, split="external") == ["images/5.png"]
    sample = samples(data, split="external")[0]
    assert sample.image == data.parent / "images/5.png"
    assert sample.mask == data.parent / "masks/5.png"
    assert sample.patient == "p2"
    assert sample.row["source"] == "a"


def test_where(data: Path) -> None:
    assert names(data, where=("source=a",)) == ["images/1.png", "images/3.png"]
    assert len(names(data, where=("source=a", "source=b"))) == 4
    assert names(data, where=("source=a", "patient=p1")) == ["images/3.png"]


def test_external_is_not_reached_by_where(data: Path) -> None:
    with pytest.raises(CxrsegError, match="no row has"):
        samples(data, where=("split=external",))


def test_limit_is_spread(data: Path) -> None:
    assert names(data, limit=2) == ["images/1.png", "images/3.png"]
    assert len(names(data, limit=100)) == 4


def test_protocols_are_not_mixed(data: Path) -> None:
    lines = data.read_text().splitlines()
    protocol = ["protocol", "fields", "fields", "whole", "", "fields", "whole"]
    data.write_text("\n".join(f"{a},{b}" for a, b in zip(lines, protocol, strict=True)))
    assert names(data) == ["images/1.png", "images/3.png", "images/4.png"]
    assert names(data, protocol="whole") == ["images/2.png"]


def test_without_patients_an_image_is_its_own(data: Path) -> None:
    data.write_text("image,mask,split\nimages/1.png,masks/1.png,test\n")
    assert samples(data)[0].patient == "images/1.png"


def test_absolute_paths_are_not_recorded(data: Path) -> None:
    home = data.parent
    data.write_text(f"image,mask,split\n{home}/images/1.png,{home}/masks/1.png,test\n")
    sample = samples(data)[0]
    assert sample.name == "1.png"
    assert sample.image.is_file()


def test_byte_order_mark_is_ignored(data: Path) -> None:
    data.write_bytes(b"\xef\xbb\xbf" + data.read_bytes())
    assert len(names(data)) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,split\na,test\n", "has no column 'mask'"),
        ("", "has no column 'image'"),
        ("image,mask,split\n", "no row has split = test"),
        ("image,mask,split\nimages/1.png,masks/1.png,val\n", "--split takes val"),
        ("image,mask,split\nimages/1.png,,test\n", "names no mask"),
        ("image,mask,split\nimages/1.png,masks/1.png,test,x\n", "more cells"),
        ("image,mask,split\nimages/none.png,masks/1.png,test\n", "no such image file"),
        ("image,mask,split\nimages/1.png,masks/none.png,test\n", "no such mask file"),
        ('image,mask,split\n"images/1.png,masks/1.png,test\n', "not a CSV"),
    ],
)
def test_bad_tables_are_refused(data: Path, text: str, message: str) -> None:
    data.write_text(text)
    with pytest.raises(CxrsegError, match=message):
        samples(data)


def test_missing_and_unreadable_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CxrsegError, match="no such file"):
        samples(tmp_path / "none.csv")
    with pytest.raises(CxrsegError, match=r"cannot be read \(it is a folder"):
        samples(tmp_path)
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"GIF89a\x00\x01\xff\xfe")
    with pytest.raises(CxrsegError, match="UTF-8"):
        samples(binary)


def test_unknown_column_of_where(data: Path) -> None:
    with pytest.raises(CxrsegError, match="has no column 'color'; there are image"):
        samples(data, where=("color=gray",))


def test_grouping(data: Path) -> None:
    chosen = samples(data)
    assert grouping(chosen, DataOptions(data=data)) == "source"
    assert grouping(chosen, DataOptions(data=data, by="patient")) == "patient"
    with pytest.raises(CxrsegError, match="has no column 'age'"):
        grouping(chosen, DataOptions(data=data, by="age"))
    data.write_text("image,mask,split\nimages/1.png,masks/1.png,test\n")
    assert grouping(samples(data), DataOptions(data=data)) is None


def test_images_of_a_csv(data: Path) -> None:
    options = ImageOptions(images=data, where=("source=a",), limit=1)
    images, facts = list_images(options)
    assert images == [("images/1.png", data.parent / "images/1.png")]
    assert facts == {**csv_facts(data, options, 1), "protocol": "fields"}
    assert facts["csv"] == "pairs.csv" and facts["where"] == ["source=a"]
    assert facts["sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()


def test_images_of_a_folder(data: Path) -> None:
    folder = data.parent / "images"
    images, facts = list_images(ImageOptions(images=folder, limit=2))
    assert images == [(f"{n}.png", folder / f"{n}.png") for n in (0, 3)]
    assert facts == {"folder": "images", "limit": 2, "images": 2}
    with pytest.raises(click.UsageError, match="--where chooses rows of a CSV"):
        list_images(ImageOptions(images=folder, where=("source=a",)))
    with pytest.raises(CxrsegError, match="no such folder or CSV"):
        list_images(ImageOptions(images=folder / "none"))


def test_facts_of_a_model(model: Path) -> None:
    assert model_facts(model, load_model(model, "cpu")) == {
        "file": "tiny.onnx",
        "name": "tiny",
        "version": "9.9",
        "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
    }
