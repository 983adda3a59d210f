"""All of the evidence, on phantoms with the nano model; and parts that fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from test_bench_report import Page

from cxrseg.benchmarks import paper
from cxrseg.benchmarks.layers import LOGITS, output_noise, pair_layers
from cxrseg.benchmarks.paper import NAMES, Part, forget, run_parts
from cxrseg.runtime.errors import CxrsegError
from cxrseg.runtime.session import load_model
from cxrseg.trainer.checkpoint import load
from cxrseg.trainer.layers import effective

Bench = Callable[..., Any]


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


class TestWholeRun:
    def test_every_part_is_there(self, paper_run: Path, fine_run: Path) -> None:
        record = read(paper_run, "paper")
        outcomes = {each["name"]: each["outcome"] for each in record["parts"]}
        assert tuple(outcomes) == NAMES
        assert outcomes.pop("compression") == "not passed"
        assert set(outcomes.values()) == {"done"}
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
        history = read(paper_run, "ranks")["history"]
        assert len(history) > 2 and history[-1]["total"] < history[0]["total"]

    def test_compression_counts_these_files(self, paper_run: Path) -> None:
        measured = read(paper_run, "compression")["measured"]
        assert measured["int8_bytes"] == (paper_run / "int8.onnx").stat().st_size


class TestQuantizationError:
    @pytest.fixture
    def models(self, paper_run: Path) -> tuple[ir.Model, ir.Model]:
        return ir.load(paper_run / "fp32.onnx"), ir.load(paper_run / "int8.onnx")

    def test_it_is_rounding_alone(self, paper_run: Path) -> None:
        record = read(paper_run, "quantization-error")
        weights = record["weights"]
        assert record["reference"]["same_checkpoint"] is True
        assert weights["rounding_alone"] and not weights["exact"]
        assert weights["in_steps"]["sd"] == pytest.approx(1 / np.sqrt(12), rel=0.05)
        assert weights["distances"]["steps_uniform"] < weights["distances"]["steps_normal"]
        assert weights["correlation"] > 0.99
        assert record["outputs"][-1]["name"] == LOGITS
        assert all(each["sqnr"] > 0 for each in record["outputs"])
        assert {"checked": record["data"]["images"]} == {"checked": 4}

    def test_weights_are_those_of_the_network(
        self, models: tuple[ir.Model, ir.Model], paper_run: Path, fine_run: Path
    ) -> None:
        layers = {each.name: each for each in pair_layers(*models, paper_run / "int8.onnx")}
        network = load(fine_run / "model.ckpt").model
        precision = load_model(paper_run / "int8.onnx", "cpu").card.precision
        integer = [name for name, kind in precision.items() if kind == "int8"]
        assert len(layers) >= len(integer) - 4
        for name in ("mlp.lin1", "attn.proj"):
            full = f"image_encoder.blocks.1.{name}"
            expected = effective(network.get_submodule(full))[0].detach().numpy()
            found = layers[full].weight
            assert found is not None
            np.testing.assert_allclose(found, expected, atol=1e-6)
        last = layers["mask_decoder.transformer.final_attn_token_to_image.out_proj"]
        decoder = network.mask_decoder.transformer.final_attn_token_to_image.out_proj
        assert last.weight is not None
        np.testing.assert_allclose(last.weight, effective(decoder)[0].detach(), atol=1e-6)
        for each in layers.values():
            if each.weight is not None and each.rounded is not None and each.step is not None:
                error = (each.rounded - each.weight).reshape(len(each.step), -1)
                assert np.abs(error / each.step[:, None]).max() <= 0.501, each.name
                assert each.limit <= 63
            else:
                assert ".attn.matmul." in each.name

    def test_a_network_against_itself_has_no_noise(self, paper_run: Path) -> None:
        one, two, integer = (
            ir.load(paper_run / n) for n in ("fp32.onnx", "fp32.onnx", "int8.onnx")
        )
        layers = pair_layers(one, integer, paper_run)
        same = [
            type(each)(each.name, None, None, None, 0, (each.outputs[0], each.outputs[0]))
            for each in layers
        ]
        image = np.random.default_rng(0).random((1, 1, 96, 96), dtype=np.float32)
        rows = output_noise(one, two, same, [image], 1)
        assert len(rows) == len(layers) + 1
        assert {each.noise for each in rows} == {0.0}

    def test_checkpoint_gives_the_same_as_its_export(
        self, bench: Bench, paper_run: Path, fine_run: Path, tmp_path: Path
    ) -> None:
        output = tmp_path / "error.json"
        done = bench(
            "quantization-error", paper_run / "int8.onnx", fine_run / "model.ckpt", "-o", output
        )
        assert done.code == 0, done.err
        fresh, before = json.loads(output.read_text()), read(paper_run, "quantization-error")
        assert fresh["weights"]["errors"] == pytest.approx(before["weights"]["errors"])
        assert fresh["data"] == {"synthetic": 8}

    def test_what_does_not_belong_together(
        self, bench: Bench, paper_run: Path, model: Path, tmp_path: Path
    ) -> None:
        for args, words in (
            ((model, paper_run / "fp32.onnx"), "has no INT8 layer"),
            ((paper_run / "int8.onnx", model), "of another network"),
            ((paper_run / "int8.onnx", tmp_path / "none.ckpt"), "no such file"),
        ):
            done = bench("quantization-error", *args)
            assert done.code == 1 and words in done.err, done.err


class TestParts:
    def parts(self, tmp_path: Path) -> list[Part]:
        def good(name: str) -> Callable[[], object]:
            return lambda: (
                (tmp_path / f"{name}.json").write_text('{"program": "cxrseg 0", "benchmark": "x"}')
                and None
            )

        def bad() -> object:
            raise CxrsegError("x.png", "is damaged", "draw it again")

        def broken() -> object:
            raise ZeroDivisionError("by zero")

        return [
            Part("good", good("good")),
            Part("bad", bad),
            Part("broken", broken),
            Part("after-bad", good("after-bad"), needs=("good", "bad")),
            Part("weak", lambda: 1),
            Part("after-weak", good("after-weak"), needs=("weak",)),
            Part("unfit", bad, unfit="there are no adapters"),
        ]

    def test_failures_are_told_and_cost_nothing_else(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        found = run_parts(self.parts(tmp_path), (), tmp_path, lambda _: False)
        assert [(each.name, each.outcome) for each in found] == [
            ("good", "done"),
            ("bad", "failed"),
            ("broken", "failed"),
            ("after-bad", "skipped"),
            ("weak", "not passed"),
            ("after-weak", "done"),
            ("unfit", "skipped"),
        ]
        why = {each.name: each.why for each in found}
        assert why["bad"] == "x.png: is damaged; draw it again"
        assert why["broken"] == "unexpected failure (ZeroDivisionError: by zero)"
        assert why["after-bad"] == "needs bad"
        assert why["unfit"] == "there are no adapters"
        captured = capsys.readouterr()
        assert captured.err.count("error: ") == 2
        assert "done: after-weak" in captured.out

    def test_parts_that_are_left_out(self, tmp_path: Path) -> None:
        there = {"bad": True}
        found = run_parts(
            self.parts(tmp_path), ("bad", "broken"), tmp_path, lambda name: there.get(name, False)
        )
        outcomes = {each.name: each.outcome for each in found}
        assert outcomes["bad"] == outcomes["broken"] == "skipped"
        assert outcomes["after-bad"] == "done", "what it needs is there already"

    def test_ctrl_c_ends_the_run(self, tmp_path: Path) -> None:
        def stop() -> object:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_parts([Part("a", stop)], (), tmp_path, lambda _: False)

    def test_nothing_old_is_taken_for_new(self, tmp_path: Path) -> None:
        for name in ("bad.json", "bad-map.png"):
            (tmp_path / name).write_text('{"program": "cxrseg 0", "benchmark": "x"}')
        run_parts(self.parts(tmp_path)[1:2], (), tmp_path, lambda _: False)
        assert not (tmp_path / "bad.json").exists()
        (tmp_path / "bad.json").write_text("mine")
        with pytest.raises(CxrsegError, match="kept"):
            forget(tmp_path / "bad.json", ())
        assert (tmp_path / "bad.json").read_text() == "mine"


class TestCommand:
    def test_float_checkpoint(
        self,
        bench: Bench,
        base_run: Path,
        phantom_csv: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """What needs INT8 or adapters is skipped with a reason, and no X-ray is shown."""
        traced = []
        monkeypatch.setattr(paper, "_export", lambda request, name: traced.append(name))
        args = ("paper", base_run, "--data", phantom_csv, "-o", tmp_path / "out", "--no-xrays")
        done = bench(*args, "--skip", "accuracy-fp32")
        assert done.code == 1 and "holds no result" in done.err
        assert traced == ["fp32.onnx"]
        parts = {each["name"]: each for each in read(tmp_path / "out", "paper")["parts"]}
        assert parts["export-int8"]["why"].startswith("the checkpoint is of stage 1")
        assert parts["ranks"]["why"] == "the checkpoint has no adapters"
        assert parts["significance"]["why"] == "needs accuracy-int8 and accuracy-fp32"
        assert parts["accuracy-fp32"]["why"] == "by --skip"

    def test_other_checkpoints_exports_are_not_used(self, paper_run: Path, fine_run: Path) -> None:
        own = load(fine_run / "model.ckpt").sha256
        assert paper._is_export(paper_run, "export-int8", own)
        assert not paper._is_export(paper_run, "export-int8", 64 * "0")
        assert not paper._is_export(paper_run, "latency", own)

    def test_bad_requests_end_before_the_work(
        self, bench: Bench, fine_run: Path, phantom_csv: Path, tmp_path: Path
    ) -> None:
        out = ("-o", tmp_path / "out")
        for args, code, words in (
            ((fine_run, "--data", tmp_path / "none.csv", *out), 1, "none.csv"),
            ((tmp_path, "--data", phantom_csv, *out), 1, "no such file"),
            ((fine_run, "--data", phantom_csv, *out, "--split", "dev"), 1, "--split takes"),
            ((fine_run, "--data", phantom_csv, *out, "--skip", "lunch"), 2, "lunch"),
        ):
            done = bench("paper", *args)
            assert done.code == code and words in done.err, done.err
        assert not (tmp_path / "out").exists()
