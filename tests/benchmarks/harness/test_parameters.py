from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from cxrseg.benchmarks.harness.options import DataOptions, DeviceOptions, SeedOptions
from cxrseg.benchmarks.harness.parameters import (
    PATH,
    argument,
    changed,
    option,
    parameters,
    words,
)


@dataclass(frozen=True)
class Options(SeedOptions):
    """One parameter of each kind."""

    rate: float = option("-r", "--rate", default=0.5, type=float, help="How much.")
    many: tuple[str, ...] = option("--many", default=(), multiple=True, help="Some.")
    pair: tuple[Path, Path] | None = option(
        "--pair", default=None, nargs=2, type=PATH, help="Two files."
    )
    quick: bool = option("--quick", default=False, is_flag=True, help="Less.")
    limit: int = option("--limit", type=click.IntRange(min=1), help="At most.")
    model: Path = argument(type=PATH)
    others: tuple[Path, ...] = argument(default=(), nargs=-1, type=PATH)


FULL = Options(
    seed=3,
    rate=0.25,
    many=("a=1", "b c=2"),
    pair=(Path("/home/somebody/x.onnx"), Path("y.onnx")),
    quick=True,
    limit=7,
    model=Path("m.onnx"),
    others=(Path("n.onnx"), Path("o.onnx")),
)


def parsed(*args: str) -> Options:
    """Return the options that a command line gives."""
    seen: list[Options] = []
    command = click.Command(
        "x", params=list(parameters(Options)), callback=lambda **v: seen.append(Options(**v))
    )
    command.main(list(args), standalone_mode=False)
    return seen[0]


def test_options_go_to_the_command_line_and_back() -> None:
    line = list(words(FULL))
    assert line[:3] == ["m.onnx", "n.onnx", "o.onnx"], "arguments come first"
    # Of a path only the name is told.
    assert line[3:] == [
        *("--seed", "3", "--rate", "0.25", "--many", "a=1", "--many", "b c=2"),
        *("--pair", "x.onnx", "y.onnx", "--quick", "--limit", "7"),
    ]
    again = parsed(*line)
    assert again == Options(**{**vars(FULL), "pair": (Path("x.onnx"), Path("y.onnx"))})


def test_defaults_are_those_of_the_dataclass() -> None:
    short = Options(limit=1, model=Path("m.onnx"))
    assert parsed("m.onnx", "--limit", "1") == short
    assert list(words(short)) == ["m.onnx", "--limit", "1"]
    assert changed(short, "rate", "limit", "quick") == ["limit"]
    assert changed(FULL, "rate", "quick", "seed") == ["rate", "quick", "seed"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["m.onnx"], "--limit"),
        (["--limit", "1"], "MODEL"),
        (["m.onnx", "--limit", "0"], "--limit"),
        (["m.onnx", "--limit", "1", "--rate", "much"], "--rate"),
    ],
)
def test_wrong_usage(args: list[str], message: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        parsed(*args)
    assert message in caught.value.format_message()


def test_help_shows_defaults_that_say_something() -> None:
    command = click.Command("x", params=list(parameters(Options)))
    text = command.get_help(click.Context(command))
    assert "[default: 0;" in text and "[default: 0.5]" in text
    assert text.count("[default") == 2
    assert "required]" in text


def test_shared_options_are_inherited() -> None:
    @dataclass(frozen=True)
    class Own(SeedOptions, DeviceOptions, DataOptions):
        """All that many benchmarks have."""

    names = {parameter.name for parameter in parameters(Own)}
    assert names == {
        *("data", "by", "split", "where", "protocol", "limit", "device", "threads", "seed")
    }
    rows = Own(data=Path("/a/pairs.csv"), where=("source=a",), device="cpu")
    assert " ".join(sorted(words(rows))) == "--data --device --where cpu pairs.csv source=a"


def test_terms_without_a_column_are_refused() -> None:
    (where,) = (p for p in parameters(DataOptions) if p.name == "where")
    command = click.Command("x", params=[where], callback=lambda where: where)
    assert command.main(["--where", "a=b=c"], standalone_mode=False) == ("a=b=c",)
    for wrong in ("source", "=a"):
        with pytest.raises(click.BadParameter, match="is not column=value"):
            command.main(["--where", wrong], standalone_mode=False)
