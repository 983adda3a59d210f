from __future__ import annotations

import json

from cxrseg.benchmarks.harness.plots import blank, plot
from cxrseg.benchmarks.harness.result import Table


def test_table_is_aligned_markdown() -> None:
    lines = Table(["name", "n"], [["a|b", "1"], ["long name", "1000"]]).to_text().splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "|:----------|-----:|"
    assert lines[2] == "| a\\|b      |    1 |"


def test_cells_are_kept_as_they_are_written() -> None:
    text = Table(["name", "n"], [["0010", "1.50"], ["-", "1e3"]]).to_text()
    assert all(cell in text for cell in ("0010", "1.50", "1e3"))


def test_title_and_note_surround_the_table() -> None:
    text = Table(["a"], [["1"]], "Title", "Note.").to_text()
    assert text.startswith("Title\n\n| a") and text.endswith("|\n\nNote.")
    assert Table([], [], note="Note.").to_text() == "Note."


def test_plain_data() -> None:
    table = Table(("a",), [("1",)], "Title", "Note.")
    data = {"title": "Title", "header": ["a"], "rows": [["1"]], "note": "Note."}
    assert table.to_dict() == json.loads(json.dumps(table.to_dict())) == data


def test_plots_are_the_same_bytes_for_the_same_data() -> None:
    pngs = []
    for _ in range(2):
        figure, axes = blank(3, 2)
        axes[0, 0].plot([1, 2])
        pngs.append(plot("line", figure, "A line.").png)
    assert pngs[0] == pngs[1]
    assert pngs[0].startswith(b"\x89PNG") and b"Software\0cxrseg" in pngs[0][:1024]
