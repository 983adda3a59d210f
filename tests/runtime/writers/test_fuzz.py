"""Tables that an earlier run left, whatever is in them, take further records or are kept."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import strategies as st

from cxrseg.runtime.writers.table_files import csv_table, json_lines
from cxrseg.runtime.writers.tables import Record, header, line, row
from helpers.fuzz.reports import changed_lines, changed_rows
from helpers.trials.answers import asked
from helpers.trials.trial import fuzzed

RECORD = Record("/xrays/new.png", "error", "the file is empty")


def add_line(path: Path) -> bool:
    with json_lines(path, append=True) as add:
        add(RECORD)
    return True


def add_row(path: Path) -> bool:
    with csv_table(path) as add:
        add(RECORD)
    return True


@fuzzed(st.deferred(lambda: changed_lines(line(RECORD))))
def test_lines(case: bytes, home: Path) -> bool:
    """Whole lines stay as they are, what a kill cut off goes, and the new line is the last."""
    path = home / "all.jsonl"
    path.write_bytes(case)
    if asked(lambda: add_line(path)) is None:
        assert path.read_bytes() == case
        return False
    *old, new = path.read_bytes().splitlines(keepends=True)
    assert json.loads(new)["source"] == RECORD.source and new.endswith(b"\n")
    assert b"".join(old) == case[: case.rfind(b"\n") + 1]
    return True


@fuzzed(st.deferred(lambda: changed_rows(row(RECORD))))
def test_rows(case: bytes, home: Path) -> bool:
    """A table is replaced where it is one of ours, and kept where it is not."""
    path = home / "all.csv"
    path.write_bytes(case)
    if asked(lambda: add_row(path)) is None:
        assert path.read_bytes() == case
        return False
    assert path.read_bytes() == header() + row(RECORD)
    return True
