from __future__ import annotations

from pathlib import Path

import pytest

from cxrseg.runtime import CxrsegError
from cxrseg.runtime.files.atomic import atomic_write, write_together
from helpers.runs import names


def test_atomic_write_keeps_the_old_file_on_failure(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with atomic_write(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_text("new")
        raise ZeroDivisionError
    assert path.read_text() == "old" and names(tmp_path) == ["x"]


def test_write_together_is_all_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(CxrsegError):
        write_together({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert names(tmp_path) == ["b"]
    write_together({tmp_path / "a": b"1", tmp_path / "c": b"2"})
    assert names(tmp_path) == ["a", "b", "c"]
