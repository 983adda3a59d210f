from __future__ import annotations

import json
from pathlib import Path

import pytest

from cxrseg.runtime.writers import table_files
from cxrseg.runtime.writers.table_files import json_lines
from cxrseg.runtime.writers.tables import Record
from helpers.runs import lines_of


def test_lines_hold_what_the_reports_hold(run_tiny, save_chest, xrays, tmp_path) -> None:
    paths = [save_chest(xrays / "a.png"), xrays / "none.png"]
    paths.append(save_chest(xrays / "b.png", left_lung=False))
    told = tmp_path / "all.jsonl"
    assert run_tiny(*paths, "--jsonl", told).code == 1
    first, failed, last = lines_of(told)
    report = json.loads((xrays / "a.json").read_text())
    assert first == report | {"source": str(paths[0]), "status": "ok", "error": None}
    assert failed["source"] == str(paths[1]) and failed["status"] == "error"
    assert "no such file" in failed["error"] and "labels" not in failed
    assert last["flags"][0]["code"] == "lung_missing"
    # A file of an earlier run is replaced.
    assert run_tiny(paths[2], "--strict", "--jsonl", told).code == 3
    (flagged,) = lines_of(told)
    assert flagged["status"] == "flagged" and flagged["formats"] == []


@pytest.mark.parametrize("kind", ["foreign", "report", "folder", "no folder", "the table"])
def test_lines_that_cannot_be_are_refused_before_work(
    run_tiny, save_chest, xrays, tmp_path, kind: str
) -> None:
    told = tmp_path / "all.jsonl"
    if kind == "foreign":
        told.write_text('{"name": "x"}\n')
    elif kind == "report":
        assert run_tiny(save_chest(tmp_path / "a.png")).code == 0
        told = tmp_path / "a.json"
    elif kind == "folder":
        told.mkdir()
    elif kind == "no folder":
        told = tmp_path / "no" / "all.jsonl"
    before = told.read_bytes() if told.is_file() else None
    also = ["--csv", told] if kind == "the table" else []
    result = run_tiny(save_chest(xrays / "x.png"), "--jsonl", told, *also)
    assert result.code == (2 if also else 1) and result.out == "" and "--jsonl" in result.err
    assert [path.name for path in xrays.iterdir()] == ["x.png"]
    assert before is None or told.read_bytes() == before


def test_lines_are_there_as_soon_as_they_are_known(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    with json_lines(path) as add:
        for count in (1, 2):
            add(Record("x", "error", "is bad"))
            assert len(lines_of(path)) == count


def test_appending_keeps_whole_lines_and_adds_what_they_lack(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    with json_lines(path, append=True) as add:
        add(Record("done", "ok", report={"input": "done"}))
        add(Record("bad", "error", "is bad"))
    with path.open("a") as file:
        file.write("edited\n")
        file.write(path.read_text()[:30])  # a line that a kill cut off
    with json_lines(path, append=True) as add:
        add(Record("done", "ok", earlier=True))
        add(Record("lost", "ok", earlier=True))
        add(Record("done", "ok"))  # changed, and done again
        add(Record("bad", "error", "is bad"))
    lines = path.read_text().splitlines()
    assert lines.pop(2) == "edited"
    told = [(line["source"], line["status"]) for line in map(json.loads, lines)]
    first = [("done", "ok"), ("bad", "error")]
    assert told == [*first, ("lost", "ok"), *first]


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_longer_than_any_of_ours_is_not_read_whole(tmp_path, monkeypatch, end) -> None:
    monkeypatch.setattr(table_files, "_MAX_LINE", 200)
    path = tmp_path / "all.jsonl"
    with json_lines(path) as add:
        add(Record("first", "ok"))
    with path.open("ab") as file:
        file.write(path.read_bytes()[:60] + b"x" * 1000 + end)
    with json_lines(path, append=True) as add:
        for source in ("first", "second"):
            add(Record(source, "ok", earlier=True))
    first, *long, second = path.read_bytes().splitlines()
    assert (json.loads(first)["source"], json.loads(second)["source"]) == ("first", "second")
    # Cut off by a kill, as it seems, or somebody's.
    assert [len(line) for line in long] == ([1060] if end else [])
