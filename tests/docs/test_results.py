"""The committed results are small summaries without figures of single images."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from cxrseg.benchmarks.cli import command
from helpers.paths import REPO

RESULTS = REPO / "benchmarks" / "results"
RECORDS = sorted(p for p in RESULTS.glob("*.json") if not p.stem.endswith("-images"))


def read(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def lists_in(value: Any, name: str = "data") -> Iterator[tuple[str, int]]:
    """Yield the name and length of each list, however deep."""
    if isinstance(value, list):
        yield name, len(value)
    members = value.items() if isinstance(value, dict) else ()
    members = enumerate(value) if isinstance(value, list) else members
    for key, member in members:
        yield from lists_in(member, f"{name}.{key}")


def data_sets(data: dict[str, Any]) -> Iterator[int]:
    """Yield the number of images of each data set that a result names."""
    for each in (data.get("dataset"), *data.get("tests", ())):
        if isinstance(each, dict):
            yield each["images"]


def test_results_are_small_summaries() -> None:
    assert sum(path.stat().st_size for path in RECORDS) < 300_000
    for path in RECORDS:
        keys = read(path).keys()
        assert {"program", "benchmark", "command", "data", "tables", "plots"} <= keys


def test_lists_are_found() -> None:
    assert [*lists_in({"a": [{"b": [1, 2]}], "c": 3})] == [("data.a", 1), ("data.a.0.b", 2)]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_results_hold_no_figures_of_single_images(path: Path) -> None:
    data = read(path)["data"]
    counts = {*data_sets(data)}
    assert not [name for name, length in lists_in(data) if length in counts]


def test_plots_are_shown() -> None:
    pages = "".join(p.read_text(encoding="utf-8") for p in (REPO / "docs").glob("*.md"))
    pages += (REPO / "README.md").read_text(encoding="utf-8")
    plots = [path.name for path in RESULTS.glob("*.png")]
    assert plots
    assert not [name for name in plots if f"results/{name})" not in pages]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_recorded_commands_are_todays_or_the_page_says_so(path: Path) -> None:
    program, name, *words = shlex.split(read(path)["command"])
    assert program == "cxrseg-bench"
    with click.Context(command) as context:
        found = command.get_command(context, name)
    assert found is not None
    try:
        found.make_context(name, words)
    except click.NoSuchOption as error:
        row = f"| `{path.name}` | `{error.option_name}` |"
        assert row in (REPO / "docs" / "evidence.md").read_text(encoding="utf-8")
