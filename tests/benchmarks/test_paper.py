"""All of the evidence, on phantoms with the nano model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cxrseg.benchmarks.paper import PARTS
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.trainer.fit.checkpoint import Description, build, load, save
from cxrseg.trainer.networks.unet import UNetArchitecture
from helpers.page import Page

Bench = Callable[..., Any]


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


class TestWholeRun:
    def test_every_part_is_there(self, paper_run: Path, fine_run: Path) -> None:
        record = read(paper_run, "paper")["data"]
        outcomes = {each["name"]: each["outcome"] for each in record["parts"]}
        assert tuple(outcomes) == tuple(PARTS)
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
        assert page.tags.count("img") == 6
        assert not [each for each in page.addresses if not each.startswith(("data:", "#"))]

    def test_scores_are_those_of_the_files(self, paper_run: Path) -> None:
        scores = [read(paper_run, f"accuracy-{name}") for name in ("int8", "fp32")]
        found = read(paper_run, "significance")["data"]["groups"]["all"]
        means = [each["data"]["summary"]["all"]["dice"]["mean"] for each in scores]
        assert min(means) > 0.8
        assert [found["first"], found["second"]] == pytest.approx(means, abs=1e-5)
        assert found["patients"] == 2
        maps = read(paper_run, "ssim")["data"]["groups"]["all"]
        assert 0.5 < maps["ours"] <= 1 and abs(maps["difference"]) < 0.05

    def test_compression_counts_these_files(self, paper_run: Path) -> None:
        measured = read(paper_run, "compression")["data"]["measured"]
        assert measured["int8_bytes"] == (paper_run / "int8.onnx").stat().st_size


class TestCommand:
    def test_again(
        self, bench: Bench, paper_run: Path, fine_run: Path, phantom_csv: Path, tmp_path: Path
    ) -> None:
        """A second run keeps all; one of other settings makes what depends on them."""
        folder = tmp_path / "again"
        shutil.copytree(paper_run, folder)
        before = read(folder, "paper")["data"]["parts"]
        args = ("paper", fine_run, "--data", phantom_csv, "-o", folder, "--threads", 1)
        done = bench(*args, "--runs", 2)
        assert done.code == 1  # still, for compression
        assert done.out.count("of the same inputs, kept") == len(PARTS)
        assert read(folder, "paper")["data"]["parts"] == before
        skipped = [word for name in ("latency", "roofline") for word in ("--skip", name)]
        done = bench(*args, "--runs", 3, *skipped)
        assert done.out.count("of the same inputs, kept") == len(PARTS) - 2
        parts = {each["name"]: each for each in read(folder, "paper")["data"]["parts"]}
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
            for name in PARTS
            if name not in ("accuracy-int8", "compression")
            for word in ("--skip", name)
        ]
        files = ("--int8", paper_run / "int8.onnx", "--fp32", paper_run / "fp32.onnx")
        rest = ("--data", phantom_csv, "-o", tmp_path, "--limit", 2, *files)
        done = bench("paper", fine_run, *rest, *skipped)
        assert done.code == 1
        parts = {each["name"]: each["outcome"] for each in read(tmp_path, "paper")["data"]["parts"]}
        assert not [name for name in parts if name.startswith("export")]
        assert parts["accuracy-int8"] == "done" and parts["significance"] == "skipped"
        assert not (tmp_path / "int8.onnx").exists()
        assert read(tmp_path, "accuracy-int8")["data"]["dataset"]["images"] == 2
        done = bench("paper", fine_run / "stage1.ckpt", *rest)
        assert done.code == 1 and "not exported from the checkpoint" in done.err

    def test_float_checkpoint(
        self, bench: Bench, base_run: Path, phantom_csv: Path, tmp_path: Path
    ) -> None:
        """What needs INT8 or adapters is skipped with a reason."""
        args = ("paper", base_run, "--data", phantom_csv, "-o", tmp_path / "out")
        done = bench(*args, "--skip", "export-fp32")
        assert done.code == 0, done.err
        parts = {each["name"]: each for each in read(tmp_path / "out", "paper")["data"]["parts"]}
        assert parts["export-int8"]["why"].startswith("the checkpoint is of stage 1")
        assert parts["ranks"]["why"] == "the checkpoint has no adapters"
        assert parts["ssim"]["why"] == "needs export-int8 and export-fp32"
        assert {each["outcome"] for each in parts.values()} == {"skipped"}

    def test_a_unet(self, bench: Bench, phantom_csv: Path, tmp_path: Path) -> None:
        """Its INT8 file needs images to calibrate on, so it is not made here."""
        labels = ("right_lung", "left_lung")
        unet = Description(UNetArchitecture((4, 8, 8)), labels, Preprocessing(64))
        save(build(unet), unet, tmp_path / "unet.ckpt")
        skip = [word for name in PARTS for word in ("--skip", name)]
        args = ("paper", tmp_path / "unet.ckpt", "--data", phantom_csv, "-o", tmp_path / "out")
        done = bench(*args, *skip)
        assert done.code == 0, done.err
        parts = {each["name"]: each for each in read(tmp_path / "out", "paper")["data"]["parts"]}
        assert parts["export-int8"]["why"].endswith("give the INT8 file with --int8")
        assert parts["export-fp32"]["why"] == "by --skip"

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
