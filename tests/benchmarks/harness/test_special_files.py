"""Results that are to go where no file can be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Bench = Callable[..., Any]

if os.name != "posix":
    pytest.skip("pipes and links of POSIX", allow_module_level=True)


def put(path: Path, kind: str) -> None:
    """Put something at a path that is no file, and that opening waits for."""
    if kind == "link":
        path.symlink_to(path.with_name("pipe"))
        path = path.with_name("pipe")
    os.mkfifo(path)


@pytest.mark.parametrize("kind", ["pipe", "link"])
@pytest.mark.parametrize("name", ["r.json", "r-images.json", "r-worst.png"])
def test_what_is_no_file_is_neither_opened_nor_replaced(
    bench: Bench, tmp_path: Path, name: str, kind: str
) -> None:
    put(tmp_path / name, kind)
    before = {path: path.lstat().st_mode for path in tmp_path.iterdir()}
    done = bench("accuracy", "x.onnx", "--data", tmp_path / "x.csv", "-o", tmp_path / "r.json")
    # Before the model and the data, which do not exist either.
    assert done.code == 1 and f"{tmp_path / name}: " in done.err
    assert {path: path.lstat().st_mode for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_page_that_is_no_file_stays(bench: Bench, tmp_path: Path, kind: str) -> None:
    put(tmp_path / "r.html", kind)
    done = bench("report", tmp_path, "-o", tmp_path / "r.html")
    assert done.code == 1 and f"{tmp_path / 'r.html'}: " in done.err
    assert not (tmp_path / "r.html").is_file()


@pytest.mark.parametrize("name", ["r.json", "data.csv", "model.onnx"])
def test_pipes_among_the_inputs_are_refused(bench: Bench, tmp_path: Path, name: str) -> None:
    put(tmp_path / name, "pipe")
    path = tmp_path / name
    args = {
        "r.json": ["report", tmp_path],
        "data.csv": ["accuracy", "x.onnx", "--data", path],
        "model.onnx": ["latency", path],
    }[name]
    done = bench(*args)
    assert done.code == 1 and str(tmp_path) in done.err
