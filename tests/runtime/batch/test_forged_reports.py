"""A report that was edited, damaged or forged costs no more than doing its own image again."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable

import pytest

from helpers.runs import contents, lines_of, save_chests

Report = dict


def nested(depth: int) -> dict:
    inner: dict = {}
    for _ in range(depth):
        inner = {"a": inner}
    return inner


FORGED: dict[str, Callable[[Report], object]] = {
    "flag without reason": lambda r: r.update(flags=[{"code": "x"}]),
    "flag of text": lambda r: r.update(flags=["x"]),
    "flags as an object": lambda r: r.update(flags={"a": 1}),
    "status of its own": lambda r: r.update(source="/b.png", status="error", error="forged"),
    "nested": lambda r: r.update(x=nested(400)),
    "nested where facts stand": lambda r: r["provenance"].update(x=nested(400)),
    "formula for a number": lambda r: r["measurements"].update(thoracic_width_px="=1+1"),
    "list for a number": lambda r: r["labels"][0].update(area_px=["=1+1"]),
    "no timings": lambda r: r.update(timings_ms=None),
    "text for a time": lambda r: r["timings_ms"].update(read="1"),
    "huge number": lambda r: r["labels"][0].update(area_px=10**400),
    "huge fraction": lambda r: r["labels"][0].update(fraction=10**400),
    "true for a number": lambda r: r["labels"][0].update(probability=True),
    "long text": lambda r: r.update(provider="x" * 900_000),
    "no hash": lambda r: r["provenance"].pop("sha256"),
    "lung of another name": lambda r: r["labels"][0].update(name="heart"),
    "no boxes": lambda r: r["measurements"].update(lungs={}),
    "color of text": lambda r: r["labels"][0].update(color="#ff0000"),
}

DAMAGED = {
    "infinite": lambda text: text.replace('"area_ratio": ', '"area_ratio": 1e999, "x": '),
    "infinite time": lambda text: text.replace('"read": ', '"read": 1e999, "x": '),
    "not a number": lambda text: text.replace('"height_mm": null', '"height_mm": NaN'),
    "5,000 digits": lambda text: text.replace('"height": ', '"height": ' + "9" * 5000),
    "deep": lambda text: text.rstrip("\n}") + ', "x": ' + "[" * 200_000,
    "cut off": lambda text: text[: len(text) // 2],
    "Latin-1": lambda text: text.replace("Research", "R\xe9search"),
}


@pytest.fixture
def check(run_cxrseg, model, xrays, tmp_path):
    """Run, change a report, and go on; both images must have what they had."""
    save_chests(xrays, 2)
    out, table, told = (tmp_path / name for name in ("out", "all.csv", "all.jsonl"))
    run = [xrays, "-o", out, *model, "--csv", table, "--jsonl", told]
    assert run_cxrseg(*run).code == 0
    before, rows = contents(out), table.read_bytes()

    def go_on(change: Callable[[str], str], redone: int = 1) -> None:
        path = out / "0000.json"
        text = change(path.read_text())
        path.write_bytes(text.encode("latin-1"))
        result = run_cxrseg(*run, "--skip-existing")
        assert (result.code, result.err) == (0, "")
        assert result.out.count("skipped, done before") == 2 - redone
        assert table.read_bytes() == rows
        assert [(line["input"], line["status"]) for line in lines_of(told)] == [
            ("0000.png", "ok"),
            ("0001.png", "ok"),
        ]
        assert contents(out) == before

    return go_on


@pytest.mark.parametrize("name", FORGED)
def test_forged(check, name: str) -> None:
    def change(text: str) -> str:
        report = json.loads(text)
        FORGED[name](report)
        return json.dumps(report, indent=2)

    check(change)


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged(check, name: str) -> None:
    check(DAMAGED[name])


@pytest.mark.parametrize("content", ["1", "{}", "\0" * 2000, "[]"])
def test_what_is_no_report_is_kept_and_costs_its_own_image(
    run_cxrseg, model, xrays, content: str
) -> None:
    save_chests(xrays, 2)
    path = xrays / "0000.json"
    path.write_text(content)
    for _ in range(2):
        result = run_cxrseg(xrays, *model, "--skip-existing")
        assert (result.code, len(result.out.splitlines())) == (1, 1)
        assert result.errors[0].startswith(f"error: {path}: exists and was not written by cxrseg")
        assert path.read_text() == content


def test_a_report_as_it_was_written_counts(check) -> None:
    check(lambda text: text, redone=0)


def test_commands_to_a_terminal_are_shown_not_obeyed(run_cxrseg, model, xrays, tmp_path) -> None:
    save_chests(xrays, 1)
    run = [xrays, *model, "--skip-existing", "--csv", tmp_path / "all.csv"]
    assert run_cxrseg(*run).code == 0
    path = xrays / "0000.json"
    report = json.loads(path.read_text())
    report["flags"] = [
        {"code": "=x\x1b", "reason": "y\x1b[2J\ud800", "value": None, "threshold": None}
    ]
    path.write_text(json.dumps(report, indent=2))
    result = run_cxrseg(*run)
    assert result.code == 0 and "skipped" in result.out and "\x1b" not in result.out
    with (tmp_path / "all.csv").open(encoding="utf-8-sig") as file:
        assert [row["flags"] for row in csv.DictReader(file)] == ["'=x?"]
