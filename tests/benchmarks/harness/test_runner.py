"""A small made-up benchmark, from its command line to its files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pytest

from cxrseg.benchmarks.harness.options import SeedOptions
from cxrseg.benchmarks.harness.parameters import PATH, argument, option
from cxrseg.benchmarks.harness.plots import blank, plot
from cxrseg.benchmarks.harness.result import Result, Table
from cxrseg.benchmarks.harness.runner import benchmark, run
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.terminal.console import run_command


@dataclass(frozen=True)
class Options(SeedOptions):
    """What is drawn at random."""

    source: Path = argument(type=PATH)
    most: float = option("--most", default=1.0, type=float, help="Largest mean allowed.")
    xrays: bool = option("--xrays", default=False, is_flag=True, help="Draw it.")


ran: list[Options] = []


@benchmark("dice-roll", Options, plots=("line",))
def dice_roll(options: Options) -> Result:
    """Roll a die.

    And average it.
    """
    ran.append(options)
    if not options.source.is_file():
        raise CxrsegError(options.source, "no such file", "give another")
    rolls = np.random.default_rng(options.seed).random(3).tolist()
    figure, axes = blank(3, 2)
    axes[0, 0].plot(rolls)
    return Result(
        title="Rolls",
        data={"mean": float(np.mean(rolls))},
        tables=[Table(["roll", "value"], [["mean", f"{np.mean(rolls):.3f}"]], note="Fair.")],
        plots=[plot("line", figure, "Rolls.", shows_patients=True)] if options.xrays else [],
        images=[{"roll": roll} for roll in rolls],
        passed=float(np.mean(rolls)) <= options.most,
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    ran.clear()
    path = tmp_path / "in" / "die.csv"
    path.parent.mkdir()
    path.write_text("1")
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    path = tmp_path / "out" / "rolls.json"
    path.parent.mkdir()
    return path


def call(*args: str | Path) -> int:
    with pytest.raises(SystemExit) as stop:
        run_command(dice_roll.command, [str(arg) for arg in args])
    return int(stop.value.code or 0)


def test_record_and_tables(source: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(source, "--seed", "5", "--xrays", "-o", output) == 0
    assert ran == [Options(seed=5, source=source, xrays=True)]
    rolls = np.random.default_rng(5).random(3)
    record = json.loads(output.read_text())
    assert record["benchmark"] == "dice-roll"
    assert record["command"] == "cxrseg-bench dice-roll die.csv --seed 5 --xrays"
    assert record["seed"] == 5
    assert {"date", "versions", "machine"} <= set(record)
    assert record["data"]["mean"] == pytest.approx(rolls.mean())
    assert [each["name"] for each in record["plots"]] == ["line"]
    images = json.loads((output.parent / "rolls-images.json").read_text())
    assert [image["roll"] for image in images["images"]] == rolls.tolist()
    printed = capsys.readouterr().out
    assert printed.startswith("Rolls\n\n| roll") and "Fair." in printed
    assert f"{rolls.mean():.3f}" in printed
    names = ("rolls.json", "rolls-line.png", "rolls-images.json")
    assert {path.name for path in output.parent.iterdir()} == set(names)
    assert all(str(output.with_name(name)) in printed for name in names)
    assert "(shows images of patients)" in printed
    assert str(source.parent) not in output.read_text(), "a record tells nothing of the machine"


def test_nothing_is_written_without_an_output(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert call(source) == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert "written" not in capsys.readouterr().out


def test_a_missed_limit_is_the_exit_code_and_still_recorded(source: Path, output: Path) -> None:
    assert call(source, "--most", "0.001", "-o", output) == 1
    assert json.loads(output.read_text())["data"]["mean"] > 0.001


@pytest.mark.parametrize("name", ["rolls.json", "rolls-line.png", "rolls-images.json"])
def test_foreign_files_end_it_before_the_work(
    source: Path, output: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output.with_name(name).write_text("mine")
    assert call(source, "-o", output) == 1
    assert "kept" in capsys.readouterr().err
    assert ran == [] and [path.name for path in output.parent.iterdir()] == [name]


@pytest.mark.parametrize("name", ["rolls.txt", "none/rolls.json"])
def test_bad_outputs_end_it_before_the_work(source: Path, output: Path, name: str) -> None:
    assert call(source, "-o", output.parent / name) == 1
    assert ran == [] and not list(output.parent.iterdir())


def test_failures_leave_no_file(
    source: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(source.with_name("none.csv"), "-o", output) == 1
    assert "none.csv: no such file; give another" in capsys.readouterr().err
    assert not list(output.parent.iterdir())


def test_pictures_of_patients_need_an_output(source: Path) -> None:
    assert call(source, "--xrays") == 2
    assert ran == []


def test_programs_run_it_without_printing(
    source: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    result = run(dice_roll, Options(source=source), output, show=lines.append)
    assert capsys.readouterr().out == ""
    assert lines[0] == "Rolls" and lines[-1].startswith("written: ")
    assert json.loads(output.read_text())["data"] == result.data


def test_help_is_the_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    command = dice_roll.command
    text = command.get_help(click.Context(command))
    assert "Roll a die." in text and "And average it." in text
    assert "FILE.json" in text and "Largest mean allowed." in text


@pytest.mark.parametrize("name", ["a.json", "A.json", "../in/a.json"])
@pytest.mark.parametrize("read", ["a.json", "a-images.json", "a-line.png"])
def test_no_input_is_replaced(tmp_path: Path, name: str, read: str) -> None:
    """Not even an earlier result."""
    ran.clear()
    path = tmp_path / "in" / read
    path.parent.mkdir()
    path.write_text('{"program": "cxrseg 9", "benchmark": "other"}')
    output = tmp_path / "in" / name
    with pytest.raises(CxrsegError, match="would replace an input"):
        run(dice_roll, Options(source=path), output)
    assert not ran and "other" in path.read_text()


def test_the_report_of_an_image_is_no_earlier_result(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{\n "program": "cxrseg 9",\n "size": {}\n}\n')
    with pytest.raises(CxrsegError, match="no earlier result"):
        run(dice_roll, Options(source=tmp_path), path)
