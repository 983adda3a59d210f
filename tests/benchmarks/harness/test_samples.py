from __future__ import annotations

from pathlib import Path

import pytest

from cxrseg.benchmarks.harness.legacy_samples import read_cases
from cxrseg.runtime.core.errors import CxrsegError


def names(data: Path, **options) -> list[str]:  # type: ignore[no-untyped-def]
    return [case.name for case in read_cases(data, **{"split": "test", **options})]


def test_rows_of_a_split(data: Path) -> None:
    assert names(data) == [f"images/{n}.png" for n in (1, 2, 3, 4)]
    assert names(data, split="external") == ["images/5.png"]
    case = read_cases(data, "external")[0]
    assert case.image == data.parent / "images/5.png"
    assert case.mask == data.parent / "masks/5.png"
    assert case.patient == "p2"
    assert case.row["source"] == "a"


def test_where(data: Path) -> None:
    assert names(data, where=[("source", "a")]) == ["images/1.png", "images/3.png"]
    assert len(names(data, where=[("source", "a"), ("source", "b")])) == 4
    assert names(data, where=[("source", "a"), ("patient", "p1")]) == ["images/3.png"]


def test_external_is_not_reached_by_where(data: Path) -> None:
    with pytest.raises(CxrsegError, match="no row has"):
        read_cases(data, "test", [("split", "external")])


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
    assert read_cases(data, "test")[0].patient == "images/1.png"


def test_absolute_paths_are_not_recorded(data: Path) -> None:
    home = data.parent
    data.write_text(f"image,mask,split\n{home}/images/1.png,{home}/masks/1.png,test\n")
    case = read_cases(data, "test")[0]
    assert case.name == "1.png"
    assert case.image.is_file()


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
        read_cases(data, "test")


def test_missing_and_unreadable_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CxrsegError, match="no such file"):
        read_cases(tmp_path / "none.csv", "test")
    with pytest.raises(CxrsegError, match="cannot be read"):
        read_cases(tmp_path, "test")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(CxrsegError, match="UTF-8"):
        read_cases(binary, "test")


def test_unknown_column_of_where(data: Path) -> None:
    with pytest.raises(CxrsegError, match="has no column 'color'; it has image"):
        read_cases(data, "test", [("color", "gray")])
