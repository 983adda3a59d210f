"""All of the evidence, on phantoms with the nano model; and parts that fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from cxrseg.benchmarks.harness.legacy_record import write_record
from cxrseg.benchmarks.paper import (
    COMMANDS,
    Outcome,
    Part,
    fingerprint,
    read_outcomes,
    run_parts,
)
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.trainer.fit.checkpoint import load
from helpers.page import Page

Bench = Callable[..., Any]


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


class TestWholeRun:
    def test_every_part_is_there(self, paper_run: Path, fine_run: Path) -> None:
        record = read(paper_run, "paper")
        outcomes = {each["name"]: each["outcome"] for each in record["parts"]}
        assert tuple(outcomes) == tuple(COMMANDS)
        assert outcomes.pop("compression") == "not passed"
        assert set(outcomes.values()) == {"done"}
        assert all(each["seconds"] > 0 and each["date"] for each in record["parts"])
        assert record["checkpoint"]["sha256"] == load(fine_run / "model.ckpt").sha256
        assert record["checkpoint"]["method"] == "adalora"

    def test_page_shows_it(self, paper_run: Path) -> None:
        text = (paper_run / "report.html").read_text()
        page = Page(text)
        for words in (
            "At a glance",
            "Does INT8 cost anything?",
            "What does rounding do inside?",
            "Where did AdaLoRA spend its budget?",
            "How much of the machine is used?",
            "shows X-rays of patients",
            "32 in every layer",
            "How was all of this made?",
        ):
            assert words in page.text, words
        assert page.tags.count("img") == 7
        assert not [each for each in page.addresses if not each.startswith(("data:", "#"))]

    def test_scores_are_those_of_the_files(self, paper_run: Path) -> None:
        scores = [read(paper_run, f"accuracy-{name}") for name in ("int8", "fp32")]
        found = read(paper_run, "significance")["groups"]["all"]
        means = [each["summary"]["all"]["dice"]["mean"] for each in scores]
        assert min(means) > 0.8
        assert [found["first"], found["second"]] == pytest.approx(means, abs=1e-5)
        assert found["patients"] == 2
        maps = read(paper_run, "ssim")["groups"]["all"]
        assert 0.5 < maps["ours"] <= 1 and abs(maps["difference"]) < 0.05

    def test_budget_is_that_of_the_run(self, paper_run: Path) -> None:
        history = read(paper_run, "ranks")["data"]["history"]
        assert len(history) > 2 and history[-1]["total"] < history[0]["total"]

    def test_compression_counts_these_files(self, paper_run: Path) -> None:
        measured = read(paper_run, "compression")["data"]["measured"]
        assert measured["int8_bytes"] == (paper_run / "int8.onnx").stat().st_size


class TestParts:
    """What happens between parts, with commands that write at once."""

    @pytest.fixture
    def ran(self) -> list[str]:
        return []

    @pytest.fixture
    def parts(self, tmp_path: Path, ran: list[str]) -> dict[str, Part]:
        def write(words: tuple[str, ...], output: Path) -> None:
            ran.append(output.stem)
            write_record(output, "x", {"words": list(words)}, "# x")

        def weak(words: tuple[str, ...], output: Path) -> int:
            write(words, output)
            return 1

        def bad(words: tuple[str, ...], output: Path) -> None:
            raise CxrsegError("x.png", "is damaged", "draw it again")

        def broken(words: tuple[str, ...], output: Path) -> None:
            raise ZeroDivisionError("by zero")

        def part(name: str, does: Callable[..., object], *words: str | Path, why: str = "") -> Part:
            parameters: list[click.Parameter] = [
                click.Argument(["words"], nargs=-1),
                click.Option(["-o", "output"], type=click.Path(path_type=Path)),
            ]
            command = click.Command(name, params=parameters, callback=does)
            return Part(name, command, words, tmp_path / f"{name}.json", (), why)

        source = tmp_path / "source.csv"
        source.write_text("1")
        found = [
            part("good", write, source),
            part("bad", bad),
            part("broken", broken),
            part("after-bad", write, tmp_path / "good.json", tmp_path / "bad.json"),
            part("weak", weak, "some"),
            part("after-weak", write, tmp_path / "weak.json"),
            part("after-good", write, tmp_path / "good.json"),
            part("unfit", bad, why="there are no adapters"),
        ]
        return {each.name: each for each in found}

    @staticmethod
    def run(
        parts: Iterable[Part], skip: Sequence[str] = (), earlier: Sequence[Outcome] = ()
    ) -> list[Outcome]:
        return list(run_parts(list(parts), skip, {each.name: each for each in earlier}))

    def test_failures_are_told_and_cost_nothing_else(
        self, parts: dict[str, Part], capsys: pytest.CaptureFixture[str]
    ) -> None:
        found = {each.name: each for each in self.run(parts.values())}
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

    def test_what_is_there_is_kept(
        self, parts: dict[str, Part], ran: list[str], tmp_path: Path
    ) -> None:
        chosen = [parts[name] for name in ("good", "weak", "after-weak", "after-good")]
        first = self.run(chosen)
        assert ran == ["good", "weak", "after-weak", "after-good"]
        ran.clear()
        assert self.run(chosen, ("good",), first) == first
        assert ran == []
        # Another input, and all that follows from it; here what follows comes out the same.
        (tmp_path / "source.csv").write_text("2")
        again = self.run(chosen, (), first)
        assert ran == ["good"] and [each.outcome for each in again] == [e.outcome for e in first]
        ran.clear()
        chosen[1] = replace(parts["weak"], words=("other",))
        again = self.run(chosen, (), again)
        assert ran == ["weak", "after-weak"]
        # Deleted, or replaced by hand.
        (tmp_path / "after-good.json").unlink()
        write_record(tmp_path / "after-weak.json", "x", {"words": ["mine"]}, "# x")
        ran.clear()
        self.run(chosen, (), again)
        assert ran == ["after-weak", "after-good"]

    def test_parts_that_are_left_out(self, parts: dict[str, Part]) -> None:
        chosen = [parts["good"], parts["after-good"]]
        why = [each.why for each in self.run(chosen, ("good",))]
        assert why == ["by --skip", "needs good"]

    def test_a_run_tells_more_than_its_checkpoint(
        self, parts: dict[str, Part], fine_run: Path
    ) -> None:
        ways = [replace(parts["good"], words=(p,)) for p in (fine_run, fine_run / "model.ckpt")]
        assert fingerprint(ways[0]) != fingerprint(ways[1])

    def test_a_failure_is_tried_again(self, parts: dict[str, Part]) -> None:
        found = self.run([parts["bad"]])
        assert self.run([parts["bad"]], ("bad",), found)[0].why == "by --skip"

    def test_ctrl_c_ends_the_run(self, tmp_path: Path) -> None:
        def stop(output: str) -> object:
            raise KeyboardInterrupt

        command = click.Command("a", params=[click.Option(["-o", "output"])], callback=stop)
        with pytest.raises(click.Abort):
            self.run([Part("a", command, (), tmp_path / "a.json")])

    def test_nothing_old_is_taken_for_new(self, parts: dict[str, Part], tmp_path: Path) -> None:
        write_record(tmp_path / "bad.json", "x", {}, "# x")
        assert self.run([parts["bad"]])[0].why == "x.png: is damaged; draw it again"
        assert not (tmp_path / "bad.json").exists()
        (tmp_path / "bad.json").write_text("mine")
        assert "kept" in self.run([parts["bad"]])[0].why
        assert (tmp_path / "bad.json").read_text() == "mine"

    def test_damaged_records_of_a_run(self, tmp_path: Path) -> None:
        path = tmp_path / "paper.json"
        assert read_outcomes(path) == {}
        for text in ("{", "[]", '{"program": "cxrseg 0", "benchmark": "paper", "parts": [{}, 3]}'):
            path.write_text(text)
            assert read_outcomes(path) == {}


class TestCommand:
    def test_again(
        self, bench: Bench, paper_run: Path, fine_run: Path, phantom_csv: Path, tmp_path: Path
    ) -> None:
        """A second run keeps all; one of other settings makes what depends on them."""
        folder = tmp_path / "again"
        shutil.copytree(paper_run, folder)
        before = read(folder, "paper")["parts"]
        args = ("paper", fine_run, "--data", phantom_csv, "-o", folder, "--threads", 1)
        done = bench(*args, "--runs", 2)
        assert done.code == 1  # still, for compression
        assert done.out.count("of the same inputs, kept") == len(COMMANDS)
        assert read(folder, "paper")["parts"] == before
        skipped = [word for name in ("latency", "roofline") for word in ("--skip", name)]
        done = bench(*args, "--runs", 3, *skipped)
        assert done.out.count("of the same inputs, kept") == len(COMMANDS) - 2
        parts = {each["name"]: each for each in read(folder, "paper")["parts"]}
        assert parts["latency"]["why"] == "by --skip; an earlier result is left as it was"
        assert (folder / "latency.json").is_file()
        shown = Page((folder / "report.html").read_text()).text
        assert "From accuracy-int8.json" in shown
        assert "From latency.json" not in shown

    def test_exports_that_are_given(
        self, bench: Bench, paper_run: Path, fine_run: Path, phantom_csv: Path, tmp_path: Path
    ) -> None:
        skipped = [
            word
            for name in COMMANDS
            if name not in ("accuracy-int8", "compression")
            for word in ("--skip", name)
        ]
        files = ("--int8", paper_run / "int8.onnx", "--fp32", paper_run / "fp32.onnx")
        rest = ("--data", phantom_csv, "-o", tmp_path, "--limit", 2, *files)
        done = bench("paper", fine_run, *rest, *skipped)
        assert done.code == 1
        parts = {each["name"]: each["outcome"] for each in read(tmp_path, "paper")["parts"]}
        assert not [name for name in parts if name.startswith("export")]
        assert parts["accuracy-int8"] == "done" and parts["significance"] == "skipped"
        assert not (tmp_path / "int8.onnx").exists()
        assert read(tmp_path, "accuracy-int8")["data"]["images"] == 2
        done = bench("paper", fine_run / "stage1.ckpt", *rest)
        assert done.code == 1 and "not exported from the checkpoint" in done.err

    def test_float_checkpoint(
        self, bench: Bench, base_run: Path, phantom_csv: Path, tmp_path: Path
    ) -> None:
        """What needs INT8 or adapters is skipped with a reason."""
        args = ("paper", base_run, "--data", phantom_csv, "-o", tmp_path / "out")
        done = bench(*args, "--skip", "export-fp32")
        assert done.code == 0, done.err
        parts = {each["name"]: each for each in read(tmp_path / "out", "paper")["parts"]}
        assert parts["export-int8"]["why"].startswith("the checkpoint is of stage 1")
        assert parts["ranks"]["why"] == "the checkpoint has no adapters"
        assert parts["ssim"]["why"] == "needs export-int8 and export-fp32"
        assert {each["outcome"] for each in parts.values()} == {"skipped"}

    def test_bad_requests_end_before_the_work(
        self, bench: Bench, fine_run: Path, phantom_csv: Path, tmp_path: Path
    ) -> None:
        out = ("-o", tmp_path / "out")
        for args, code, words in (
            ((fine_run, "--data", tmp_path / "none.csv", *out), 1, "none.csv"),
            ((tmp_path, "--data", phantom_csv, *out), 1, "no such file"),
            ((fine_run, "--data", phantom_csv, *out, "--split", "dev"), 1, "--split takes"),
            ((fine_run, "--data", phantom_csv, *out, "--skip", "lunch"), 2, "lunch"),
            ((fine_run, "--data", phantom_csv, *out, "--int8", tmp_path / "no.onnx"), 2, "no.onnx"),
        ):
            done = bench("paper", *args)
            assert done.code == code and words in done.err, done.err
        assert not (tmp_path / "out").exists()
