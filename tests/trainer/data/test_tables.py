"""CSV files as people have them: of Windows and Excel, damaged, enormous."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from cxrseg.benchmarks.harness import samples as bench
from cxrseg.benchmarks.harness.options import RowOptions
from cxrseg.export.reference.images import read_images
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.trainer.data import tables
from cxrseg.trainer.data.samples import Sample, read_samples
from cxrseg.trainer.data.tables import open_table, recorded_name

PLAIN = "image,mask,split,source\nbilder/größe.png,masks/m.png,train,köln\n"

Make = Callable[[str | bytes], Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a table beside two files that it may name."""
    for name in ("bilder/größe.png", "masks/m.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()

    def make(content: str | bytes) -> Path:
        path = tmp_path / "pairs.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


WRITTEN = {
    "plain": PLAIN.encode(),
    "lines of Windows": PLAIN.replace("\n", "\r\n").encode(),
    "lines of an old Mac": PLAIN.replace("\n", "\r").encode(),
    "semicolons": PLAIN.replace(",", ";").encode(),
    "tabs": PLAIN.replace(",", "\t").encode(),
    "bars": PLAIN.replace(",", "|").encode(),
    "UTF-8 with a mark": PLAIN.encode("utf-8-sig"),
    "UTF-16": PLAIN.encode("utf-16"),
    "UTF-16 without a mark": PLAIN.encode("utf-16-le"),
    "UTF-16 big-endian": b"\xfe\xff" + PLAIN.encode("utf-16-be"),
    "UTF-32": PLAIN.encode("utf-32"),
    "Windows-1252": PLAIN.encode("cp1252"),
    "all of Excel": ("sep=;\r\n" + PLAIN.replace(",", ";").replace("\n", "\r\n")).encode("cp1252"),
    "blanks": PLAIN.replace(",", " , ").encode(),
    "quotes after blanks": b'image, "mask", split, source\n'
    + 'bilder/größe.png, "masks/m.png", train, köln\n'.encode(),
    "backslashes": PLAIN.replace("/", "\\").encode(),
    "empty columns": "".join(f"{line},,\n" for line in PLAIN.splitlines()).encode(),
    "empty lines": PLAIN.replace("\n", "\n\n,,,\n").encode(),
    "no last line end": PLAIN.rstrip().encode(),
}
"""How a program may write it -> the content."""


@pytest.mark.parametrize("content", WRITTEN.values(), ids=WRITTEN)
def test_every_command_reads_it(content: bytes, make: Make) -> None:
    path = make(content)
    image, mask = path.parent / "bilder/größe.png", path.parent / "masks/m.png"
    assert read_samples(path) == [Sample(image, mask, "train", "fields", "köln")]
    (found,) = bench.read_samples(path, RowOptions(split="train", where=("source=köln",)))
    assert (found.image, found.mask, found.name) == (image, mask, "bilder/größe.png")
    (good,) = read_images(path)
    assert (good.path, good.name, good.source) == (image, "bilder/größe.png", "köln")


def test_commas_in_names_beside_semicolons(make: Make) -> None:
    path = make("image;mask;split\nbilder/größe.png;masks/a, b.png;train\n")
    (path.parent / "masks/a, b.png").touch()
    assert read_samples(path)[0].mask.name == "a, b.png"


def test_a_backslash_may_be_part_of_a_name(make: Make) -> None:
    path = make("image,mask,split\nbilder/größe.png,masks\\m.png,train\n")
    real = path.parent / "masks\\m.png"
    real.touch()
    assert read_samples(path)[0].mask == real


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (PLAIN + "a\0b,c,train,x\n", "holds bytes of 0"),
        (b"\xff\xfe" + PLAIN.encode("utf-16-le")[:-1], "is not a CSV file"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is not a CSV file"),
        (b"PK\x03\x04\x14", r"is not a CSV file \(it is a workbook\)"),
        ("image,mask,mask,split\n", "has two columns 'mask'"),
        ("image,mask\n", "has no column 'split'; there are image, mask"),
        ("", "has no column 'image'; there are none"),
        ("\n\n;;\n", "has no column 'image'"),
        (PLAIN + "a,b,train,x,more\n", "line 3 has more cells than the first"),
        (PLAIN + f"{'a' * 5000},b,train,x\n", "line 3 has a cell of more than 4096 characters"),
        (PLAIN + "a" * 70_000, "a line has more than 65536 characters"),
        (PLAIN + '"a,b,train,x\n' * 3, r"is not a CSV file \("),
        (PLAIN + ",masks/m.png,train,x\n", "line 3 names no image"),
        (PLAIN + "none.png,masks/m.png,train,x\n", r"no such image file \(line 3 of pairs\.csv\)"),
        (PLAIN + f"{'a' * 300},masks/m.png,train,x\n", "no such image file"),
        (PLAIN + "C:\\data\\a.png,masks/m.png,train,x\n", "with a drive letter .*; give paths rel"),
        ("sep=;\n" + PLAIN, "has no column 'image'; there are image,mask,split,source"),
    ],
)
def test_refusals_name_what_is_wrong(content: str | bytes, words: str, make: Make) -> None:
    with pytest.raises(CxrsegError, match=words) as refused:
        read_samples(make(content))
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pairs.csv")
    for path in (tmp_path / "pairs.csv", Path("/dev/zero"), tmp_path):
        with pytest.raises(CxrsegError, match=r"cannot be read \(it is "):
            open_table(path)
    with pytest.raises(CxrsegError, match=r"cannot be read \(it is a pipe"):
        read_samples(tmp_path / "pairs.csv")


def test_rows_are_read_as_they_are_asked_for(make: Make) -> None:
    path = make(PLAIN + "bilder/größe.png,masks/m.png,other,x\n" * 30_000)
    tracemalloc.start()
    assert len(read_samples(path)) == 1
    assert len(list(read_images(path))) == 1
    assert len(bench.read_samples(path, RowOptions(split="train"))) == 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_more_rows_than_anybody_works_on(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_CHOSEN", 3)
    line = "bilder/größe.png,masks/m.png,train,x\n"
    options = RowOptions(split="train")
    path = make(PLAIN + line * 2)
    assert len(read_samples(path)) == len(bench.read_samples(path, options)) == 3
    path = make(PLAIN + line * 3)
    for read in (read_samples, lambda path: bench.read_samples(path, options), read_images):
        with pytest.raises(CxrsegError, match="more than 3 rows are chosen"):
            read(path)


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("a/b.png", "a/b.png"),
        ("a\\b.png", "a/b.png"),
        ("/home/doe/b.png", "b.png"),
        ("C:\\doe\\b.png", "b.png"),
    ],
)
def test_absolute_paths_are_not_recorded(cell: str, name: str) -> None:
    assert recorded_name(cell) == name
