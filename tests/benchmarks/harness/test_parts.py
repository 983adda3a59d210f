"""What happens between parts, with ones that write at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cxrseg.benchmarks.harness.parts import Outcome, Part, fingerprint, read_outcomes, run_parts
from cxrseg.benchmarks.harness.record import write_record
from cxrseg.benchmarks.harness.result import Result
from cxrseg.runtime.core.errors import CxrsegError


@pytest.fixture
def ran() -> list[str]:
    return []


@pytest.fixture
def parts(tmp_path: Path, ran: list[str]) -> dict[str, Part]:
    def write(output: Path, inputs: Sequence[object]) -> None:
        ran.append(output.stem)
        words = [str(value) for value in inputs if not isinstance(value, Path)]
        write_record(output, {"benchmark": "x"}, Result("X", {"words": words}, []))

    def part(name: str, does: str, *inputs: object, why: str = "") -> Part:
        def make(output: Path) -> bool:
            if does == "bad":
                raise CxrsegError("x.png", "is damaged", "draw it again")
            if does == "broken":
                raise ZeroDivisionError("by zero")
            write(output, inputs)
            return does != "weak"

        return Part(name, tmp_path / f"{name}.json", make, inputs, unfit=why)

    source = tmp_path / "source.csv"
    source.write_text("1")
    found = [
        part("good", "write", source),
        part("bad", "bad"),
        part("broken", "broken"),
        part("after-bad", "write", tmp_path / "good.json", tmp_path / "bad.json"),
        part("weak", "weak", "some"),
        part("after-weak", "write", tmp_path / "weak.json"),
        part("after-good", "write", tmp_path / "good.json"),
        part("unfit", "bad", why="there are no adapters"),
    ]
    other = part("weak", "weak", "other")
    return {**{each.name: each for each in found}, "weak, other inputs": other}


def run(
    parts: Iterable[Part], skip: Sequence[str] = (), earlier: Sequence[Outcome] = ()
) -> list[Outcome]:
    return list(run_parts(list(parts), skip, {each.name: each for each in earlier}))


def test_failures_are_told_and_cost_nothing_else(
    parts: dict[str, Part], capsys: pytest.CaptureFixture[str]
) -> None:
    found = {each.name: each for each in run(list(parts.values())[:-1])}
    assert {name: each.outcome for name, each in found.items()} == {
        "good": "done",
        "bad": "failed",
        "broken": "failed",
        "after-bad": "skipped",
        "weak": "not passed",
        "after-weak": "done",
        "after-good": "done",
        "unfit": "skipped",
    }
    assert found["bad"].why == "x.png: is damaged; draw it again"
    assert found["broken"].why.endswith("unexpected failure (ZeroDivisionError: by zero)")
    assert found["after-bad"].why == "needs bad"
    assert found["unfit"].why == "there are no adapters"
    captured = capsys.readouterr()
    assert captured.err.count("error: ") == 2
    assert "done: after-weak" in captured.out


def test_what_is_there_is_kept(parts: dict[str, Part], ran: list[str], tmp_path: Path) -> None:
    chosen = [parts[name] for name in ("good", "weak", "after-weak", "after-good")]
    first = run(chosen)
    assert ran == ["good", "weak", "after-weak", "after-good"]
    ran.clear()
    assert run(chosen, ("good",), first) == first
    assert ran == []
    # Another input, and all that follows from it; here what follows comes out the same.
    (tmp_path / "source.csv").write_text("2")
    again = run(chosen, (), first)
    assert ran == ["good"] and [each.outcome for each in again] == [e.outcome for e in first]
    ran.clear()
    chosen[1] = parts["weak, other inputs"]
    again = run(chosen, (), again)
    assert ran == ["weak", "after-weak"]
    # Deleted, or replaced by hand.
    (tmp_path / "after-good.json").unlink()
    mine = Result("X", {"words": ["mine"]}, [])
    write_record(tmp_path / "after-weak.json", {"benchmark": "x"}, mine)
    ran.clear()
    run(chosen, (), again)
    assert ran == ["after-weak", "after-good"]


def test_parts_that_are_left_out(parts: dict[str, Part]) -> None:
    chosen = [parts["good"], parts["after-good"]]
    why = [each.why for each in run(chosen, ("good",))]
    assert why == ["by --skip", "needs good"]


def test_of_a_folder_the_name_counts(parts: dict[str, Part], tmp_path: Path) -> None:
    def found(*names: str) -> str:
        folder = tmp_path.joinpath(*names)
        folder.mkdir(parents=True, exist_ok=True)
        return fingerprint(replace(parts["good"], inputs=(folder,)))

    assert found("here", "ward7") == found("there", "ward7") != found("here", "ward8")


def test_a_failure_is_tried_again(parts: dict[str, Part]) -> None:
    found = run([parts["bad"]])
    assert run([parts["bad"]], ("bad",), found)[0].why == "by --skip"


def test_ctrl_c_ends_the_run(tmp_path: Path) -> None:
    def stop(_output: Path) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([Part("a", tmp_path / "a.json", stop)])


def test_nothing_old_is_taken_for_new(parts: dict[str, Part], tmp_path: Path) -> None:
    write_record(tmp_path / "bad.json", {"benchmark": "x"}, Result("X", {}, []))
    assert run([parts["bad"]])[0].why == "x.png: is damaged; draw it again"
    assert not (tmp_path / "bad.json").exists()
    (tmp_path / "bad.json").write_text("mine")
    assert "kept" in run([parts["bad"]])[0].why
    assert (tmp_path / "bad.json").read_text() == "mine"


def test_damaged_records_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "paper.json"
    assert read_outcomes(path) == {}
    for text in (
        "{",
        "[]",
        '{"program": "cxrseg 0", "benchmark": "paper", "tables": [], "data": {"parts": [{}, 3]}}',
    ):
        path.write_text(text)
        assert read_outcomes(path) == {}
