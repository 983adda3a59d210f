"""``cxrseg-train`` as a user meets it: refusals, interruptions, and going on after them."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cxrseg.trainer.fit.checkpoint import load
from cxrseg.trainer.fit.start import float_state
from cxrseg.trainer.recipe import Recipe, read_recipe
from helpers import phantoms

Call = Callable[..., Any]
Start = Callable[..., "subprocess.Popen[str]"]

RECIPE = """
model: vit_n
image_size: 64
method: full
data: {workers: 0}
"""

PATIENCE_SECONDS = 120


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], Path]:
    """Write a recipe for a quick run with more lines added."""

    def write(more: str = "") -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE + more)
        return path

    return write


def refused(outcome: Any, code: int, *words: str) -> None:
    """Assert that a command ended with one line that says why."""
    assert outcome.code == code, outcome.err
    lines = [line for line in outcome.err.splitlines() if line.lower().startswith("error:")]
    assert len(lines) == 1, outcome.err
    for word in words:
        assert word in lines[0]


class TestRefusals:
    def test_average_of_adapters(
        self, call_here: Call, recipe: Callable[[str], Path], tmp_path: Path
    ) -> None:
        settings = recipe("stage1: {ema: 0.9}\n")
        data = ("--recipe", settings, "--method", "adalora")
        done = call_here("train", tmp_path, "-o", tmp_path / "run", *data)
        refused(done, 1, "ema is for stage 1")

    def test_average_with_nothing(
        self,
        call_here: Call,
        recipe: Callable[[str], Path],
        small_data: Path,
        base_run: Path,
        tmp_path: Path,
    ) -> None:
        average = ("--recipe", recipe(""), "--soup", base_run / "model.ckpt")
        done = call_here("train", small_data, "-o", tmp_path / "run", *average)
        refused(done, 1, "--soup", "--checkpoint")

    def test_mislabeled_among_one_protocol(
        self, call_here: Call, recipe: Callable[[str], Path], tmp_path: Path
    ) -> None:
        settings = recipe("stage1: {skip_mislabeled: true}\n")
        done = call_here("train", tmp_path, "-o", tmp_path / "run", "--recipe", settings)
        refused(done, 1, "skip_mislabeled is for labels of both protocols")

    def test_devices_that_are_not_there(
        self, call_here: Call, recipe: Callable[[str], Path], small_data: Path, tmp_path: Path
    ) -> None:
        if torch.cuda.is_available():
            pytest.skip("there is one")
        settings = recipe("accelerator: gpu\n")
        done = call_here("train", small_data, "-o", tmp_path / "run", "--recipe", settings)
        refused(done, 1, "accelerator gpu", "cannot be used")

    def test_help_lists_the_options(self, call_here: Call) -> None:
        done = call_here("train", "--help")
        assert done.code == 0
        for option in (
            "--output",
            "--model",
            "--checkpoint",
            "--method",
            "--stage",
            "--labels",
            "--image-size",
            "--recipe",
            "--resume",
            "--show-recipe",
            "--version",
        ):
            assert option in done.out

    def test_shown_recipe_is_the_default(self, call_here: Call, tmp_path: Path) -> None:
        done = call_here("train", "--show-recipe")
        assert done.code == 0
        (tmp_path / "shown.yaml").write_text(done.out)
        assert read_recipe(tmp_path / "shown.yaml", {}) == Recipe()

    @pytest.mark.parametrize(
        "args",
        [
            ("-o", "run"),
            ("xrays",),
            ("xrays", "-o", "run", "--model", "vit_x"),
            ("xrays", "-o", "run", "--stage", "3"),
            ("xrays", "-o", "run", "--image-size", "large"),
            ("xrays", "-o", "run", "--colour"),
        ],
    )
    def test_wrong_usage(self, args: tuple[str, ...], call_here: Call) -> None:
        refused(call_here("train", *args), 2)

    def test_missing_data(self, call_here: Call, tmp_path: Path) -> None:
        done = call_here("train", tmp_path / "none", "-o", tmp_path / "run")
        refused(done, 1, str(tmp_path / "none"), "no such file or folder")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--image-size", "100"), ("--image-size", "multiple of 16")),
            (("--labels", "heart"), ("labels",)),
            (("--labels", ""), ("--labels",)),
            (("--recipe", "none.yaml"), ("none.yaml", "no such file")),
        ],
    )
    def test_bad_options(
        self,
        options: tuple[str, ...],
        words: tuple[str, ...],
        call_here: Call,
        small_data: Path,
        tmp_path: Path,
    ) -> None:
        refused(call_here("train", small_data, "-o", tmp_path / "run", *options), 1, *words)
        assert not (tmp_path / "run").exists()

    def test_unknown_recipe_key(
        self, call_here: Call, small_data: Path, recipe: Callable[[str], Path], tmp_path: Path
    ) -> None:
        path = recipe("stage1: {lerning_rate: 1}")
        done = call_here("train", small_data, "-o", tmp_path / "run", "--recipe", path)
        refused(done, 1, "recipe.yaml", "stage1.lerning_rate")

    def test_missing_split(self, call_here: Call, tmp_path: Path) -> None:
        phantoms.write_dataset(tmp_path / "xrays", {"train": 1, "test": 1}, 64, 0)
        done = call_here("train", tmp_path / "xrays", "-o", tmp_path / "run")
        refused(done, 1, "no image of split 'val'")

    def test_no_image_of_the_protocol(
        self, call_here: Call, small_data: Path, tmp_path: Path
    ) -> None:
        done = call_here("train", small_data, "-o", tmp_path / "run", "--labels", "whole")
        refused(done, 1, "no image of split 'train' with a mask of protocol whole")

    def test_bad_pair(self, call_here: Call, tmp_path: Path) -> None:
        phantoms.write_dataset(tmp_path / "xrays", {"train": 2, "val": 1}, 64, 0)
        mask = tmp_path / "xrays/train/masks/phantom_0001.png"
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(mask)
        done = call_here("train", tmp_path / "xrays", "-o", tmp_path / "run", "--method", "full")
        refused(done, 1, str(mask), "the mask is empty")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("method", ["adalora", "decoder"])
    def test_adapting_nothing(
        self, method: str, call_here: Call, small_data: Path, tmp_path: Path
    ) -> None:
        done = call_here("train", small_data, "-o", tmp_path / "run", "--method", method)
        refused(done, 1, f"--method {method}", "--checkpoint")

    def test_stage_2_of_nothing(self, call_here: Call, small_data: Path, tmp_path: Path) -> None:
        done = call_here("train", small_data, "-o", tmp_path / "run", "--stage", "2")
        refused(done, 1, "--stage 2", "--checkpoint")

    def test_missing_checkpoint(self, call_here: Call, small_data: Path, tmp_path: Path) -> None:
        options = ("--checkpoint", tmp_path / "none.ckpt")
        done = call_here("train", small_data, "-o", tmp_path / "run", *options)
        refused(done, 1, "none.ckpt", "no such file")

    @pytest.mark.parametrize("options", [("--method", "adalora"), ("--stage", "2")])
    def test_a_refused_run_leaves_its_folder_free(
        self, options: tuple[str, ...], call_here: Call, small_data: Path, tmp_path: Path
    ) -> None:
        call_here("train", small_data, "-o", tmp_path / "run", *options)
        assert not (tmp_path / "run").exists()

    def test_resume_without_a_run(self, call_here: Call, small_data: Path, tmp_path: Path) -> None:
        done = call_here("train", small_data, "-o", tmp_path / "run", "--resume")
        refused(done, 1, "no run to resume there")
        assert not (tmp_path / "run").exists()

    def test_quantizing_twice(
        self, call_here: Call, small_data: Path, fine_run: Path, tmp_path: Path
    ) -> None:
        options = ("--stage", "2", "--checkpoint", fine_run / "model.ckpt")
        done = call_here("train", small_data, "-o", tmp_path / "run", *options)
        refused(done, 1, "is quantized already")

    def test_average_with_adapters_that_are_not_merged(
        self, call_here: Call, small_data: Path, base_run: Path, fine_run: Path, tmp_path: Path
    ) -> None:
        average = ("--soup", base_run / "model.ckpt", "-o", tmp_path / "run")
        start = ("--stage", "2", "--checkpoint", fine_run / "stage1.ckpt")
        done = call_here("train", small_data, *average, *start)
        refused(done, 1, "has adapters", "swap")

    def test_unwritable_folder(self, call_here: Call, small_data: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        done = call_here("train", small_data, "-o", tmp_path / "file/run", "--method", "full")
        refused(done, 1, "cannot be written")


class TestFinishedRun:
    def test_folder_holds_the_result(self, base_run: Path) -> None:
        loaded = load(base_run / "model.ckpt")
        assert (base_run / "model.ckpt").read_bytes() == (base_run / "stage1.ckpt").read_bytes()
        description = loaded.description
        assert (description.stage, description.method) == (1, "full")
        assert description.quantization is None and description.adapters is None
        assert description.data == {
            "xrays/fields/test": 4,
            "xrays/fields/train": 48,
            "xrays/fields/val": 8,
        }
        assert set(description.metrics) == {"val_dice", "val_iou", "val_dice/xrays"}

    def test_stages_report_what_they_took(self, base_run: Path, fine_run: Path) -> None:
        report = json.loads((base_run / "stage1.json").read_text())
        assert report["images"] == 3 * 480 and report["seconds"] > 0
        assert report["metrics"] == load(base_run / "model.ckpt").description.metrics
        first, second = (
            json.loads((fine_run / f"stage{number}.json").read_text()) for number in (1, 2)
        )
        assert first["trainable"] > second["trainable"] > 0
        assert first["images"] == second["images"] == 2 * 160

    def test_it_has_learned(self, base_run: Path) -> None:
        assert load(base_run / "model.ckpt").description.metrics["val_dice"] > 0.85

    def test_ranks_are_logged(self, fine_run: Path) -> None:
        with (fine_run / "stage1/metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["rank/total"]]
        totals = [int(float(row["rank/total"])) for row in rows]
        assert len(totals) > 2 and totals == sorted(totals, reverse=True)
        final = load(fine_run / "stage1.ckpt").description.ranks
        assert totals[-1] == sum(final.values())
        for name, rank in final.items():
            logged = rows[-1][f"rank/{name.removeprefix('image_encoder.')}"]
            assert int(float(logged)) == rank

    def test_both_stages(self, fine_run: Path) -> None:
        first, second = (load(fine_run / f"stage{i}.ckpt").description for i in (1, 2))
        assert (first.stage, second.stage) == (1, 2)
        assert first.quantization is None and second.quantization is not None
        assert first.adapters == second.adapters is not None
        assert first.ranks == {k.replace(".layer", ""): v for k, v in second.ranks.items()}
        assert sum(first.ranks.values()) == 8 * 12
        assert second.metrics["val_dice"] > first.metrics["val_dice"] - 0.05

    def test_used_folder_is_refused(
        self, call_here: Call, phantom_data: Path, base_run: Path
    ) -> None:
        before = (base_run / "run.json").read_bytes()
        done = call_here("train", phantom_data, "-o", base_run, "--method", "full")
        refused(done, 1, "holds a run already", "--resume")
        assert (base_run / "run.json").read_bytes() == before

    @pytest.mark.parametrize(
        ("options", "key"),
        [
            (("--image-size", "64"), "recipe.image_size"),
            (("--method", "adalora"), "recipe.method"),
            (("--stage", "all"), "stages"),
            (("--checkpoint", "other.ckpt"), "checkpoint"),
        ],
    )
    def test_resume_with_other_options_is_refused(
        self,
        options: tuple[str, ...],
        key: str,
        call_here: Call,
        phantom_data: Path,
        base_run: Path,
    ) -> None:
        same = ("--recipe", base_run.parent / "recipe.yaml", "--method", "full", "--stage", "1")
        done = call_here("train", phantom_data, "-o", base_run, "--resume", *same, *options)
        refused(done, 1, f"the run has another {key}", "same options")

    def test_runs_of_before_a_setting_can_be_resumed(
        self, call_here: Call, phantom_data: Path, base_run: Path, tmp_path: Path
    ) -> None:
        run = tmp_path / "run"
        shutil.copytree(base_run, run)
        settings = json.loads((run / "run.json").read_text())
        del settings["checkpoint_sha256"], settings["recipe"]["stage1"]["skip_mislabeled"]
        (run / "run.json").write_text(json.dumps(settings))
        same = ("--recipe", base_run.parent / "recipe.yaml", "--method", "full", "--stage", "1")
        assert call_here("train", phantom_data, "-o", run, "--resume", *same).code == 0
        settings["recipe"]["data"]["where"] = {"ward": ["7"]}
        (run / "run.json").write_text(json.dumps(settings))
        done = call_here("train", phantom_data, "-o", run, "--resume", *same)
        refused(done, 1, "another recipe.data.where")

    def test_resume_from_another_checkpoint_of_the_same_name_is_refused(
        self, call_here: Call, phantom_data: Path, fine_run: Path, base_run: Path, tmp_path: Path
    ) -> None:
        run = tmp_path / "run"
        shutil.copytree(fine_run, run)
        other = tmp_path / "model.ckpt"
        other.write_bytes((base_run / "model.ckpt").read_bytes() + b"more")
        recipe = ("--recipe", fine_run.parent / "recipe.yaml")
        same = ("train", phantom_data, "-o", run, "--resume", *recipe, "--checkpoint")
        done = call_here(*same, base_run / "model.ckpt")
        assert done.code == 0, done.err
        refused(call_here(*same, other), 1, "another checkpoint_sha256")

    def test_resume_on_other_devices_is_refused(
        self, call_here: Call, phantom_data: Path, base_run: Path, tmp_path: Path
    ) -> None:
        run = tmp_path / "run"
        shutil.copytree(base_run, run)
        for name in ("model.ckpt", "stage1.ckpt"):
            (run / name).unlink()
        saved = torch.load(run / "stage1/last.ckpt", weights_only=True)
        torch.save({**saved, "world_size": 2}, run / "stage1/last.ckpt")
        same = ("--recipe", base_run.parent / "recipe.yaml", "--method", "full", "--stage", "1")
        done = call_here("train", phantom_data, "-o", run, "--resume", *same)
        refused(done, 1, "was trained on 2 devices", "devices: 2")

    def test_resuming_a_finished_run_changes_nothing(
        self, call_here: Call, phantom_data: Path, base_run: Path
    ) -> None:
        before = (base_run / "model.ckpt").read_bytes()
        same = ("--recipe", base_run.parent / "recipe.yaml", "--method", "full", "--stage", "1")
        done = call_here("train", phantom_data, "-o", base_run, "--resume", *same)
        assert done.code == 0, done.err
        assert (base_run / "model.ckpt").read_bytes() == before


@pytest.fixture
def start(tmp_path: Path, commands: Any) -> Any:
    """Start ``cxrseg-train`` and return the process; it is ended with the test."""
    running: list[subprocess.Popen[str]] = []

    def run(*args: object) -> subprocess.Popen[str]:
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                commands.line("train", *args),
                stdout=log,
                stderr=log,
                text=True,
                env=commands.environment(),
            )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.wait()


def wait_for(path: Path, process: subprocess.Popen[str], log: Path) -> None:
    """Wait until a file is there."""
    for _ in range(PATIENCE_SECONDS * 50):
        if path.is_file():
            return
        assert process.poll() is None, log.read_text()[-2000:]
        time.sleep(0.02)
    raise AssertionError(f"{path.name} did not appear")


def steps_in(metrics: Path) -> list[int]:
    with metrics.open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


class TestInterruption:
    def test_a_killed_run_goes_on_where_it_was(
        self,
        start: Start,
        call: Call,
        small_data: Path,
        recipe: Callable[[str], Path],
        tmp_path: Path,
    ) -> None:
        settings = recipe(
            "stage1: {epochs: 6, images_per_epoch: 40, batch_size: 4}\n"
            "stage2: {epochs: 1, images_per_epoch: 8, batch_size: 4}\n"
        )
        run = tmp_path / "run"
        args = (small_data, "-o", run, "--recipe", settings)
        process = start(*args)
        last = run / "stage1/last.ckpt"
        wait_for(last, process, tmp_path / "log")
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (run / "stage1.ckpt").exists(), "killed too late to test anything"

        saved = torch.load(last, weights_only=True)
        before = int(saved["global_step"])
        assert 0 < before < 60
        done = call("train", *args, "--resume")
        assert done.code == 0, done.err[-2000:]
        steps = steps_in(run / f"stage1/from_step_{before}/metrics.csv")
        assert min(steps) >= before - 1 and max(steps) >= 59
        assert int(torch.load(last, weights_only=True)["global_step"]) == 60
        assert load(run / "model.ckpt").description.stage == 2

    def test_ctrl_c_saves(
        self,
        start: Start,
        call_here: Call,
        small_data: Path,
        recipe: Callable[[str], Path],
        tmp_path: Path,
    ) -> None:
        settings = recipe("stage1: {epochs: 500, images_per_epoch: 40, batch_size: 4}\n")
        run = tmp_path / "run"
        process = start(small_data, "-o", run, "--recipe", settings)
        last = run / "stage1/last.ckpt"
        wait_for(last, process, tmp_path / "log")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 130
        log = (tmp_path / "log").read_text()
        assert "Traceback" not in log
        assert "interrupted: " in log and "saved; the same command with --resume" in log
        assert int(torch.load(last, weights_only=True)["global_step"]) > 0
        assert not list(run.rglob(".*.part"))
        assert not (run / "model.ckpt").exists()

        again = call_here("train", small_data, "-o", run, "--recipe", settings)
        refused(again, 1, "holds a run already")


def test_average_of_weights_is_kept_over_a_kill(
    start: Start, call: Call, small_data: Path, recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    """The checkpoint holds the average, its training state the weights, and both go on."""
    settings = recipe("stage1: {epochs: 6, images_per_epoch: 40, batch_size: 4, ema: 0.9}\n")
    run = tmp_path / "run"
    args = (small_data, "-o", run, "--recipe", settings, "--stage", "1")
    process = start(*args)
    last = run / "stage1/last.ckpt"
    wait_for(last, process, tmp_path / "log")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run / "stage1.ckpt").exists(), "killed too late to test anything"
    saved = torch.load(last, weights_only=True)
    name = "model.image_encoder.patch_embed.proj.weight"
    assert not torch.equal(saved["state_dict"][name], saved["current_model_state"][name])

    done = call("train", *args, "--resume")
    assert done.code == 0, done.err[-2000:]
    best = torch.load(run / "stage1/best.ckpt", weights_only=True)
    assert not torch.equal(best["state_dict"][name], best["current_model_state"][name])
    best = best["state_dict"][name]
    kept = load(run / "model.ckpt")
    assert torch.equal(kept.model.state_dict()[name.removeprefix("model.")], best)
    logged = [
        float(row["val_dice"])
        for path in (run / "stage1").rglob("metrics.csv")
        for row in csv.DictReader(path.open(newline=""))
        if row.get("val_dice")
    ]
    # The last is that of the weights that were kept, measured again.
    assert kept.description.metrics["val_dice"] == pytest.approx(max(logged[:-1]), abs=1e-6)


def test_quantization_goes_on_after_a_kill(
    start: Start,
    call: Call,
    small_data: Path,
    recipe: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """A resumed stage 2 rounds and tracks ranges as before."""
    settings = recipe(
        "stage1: {epochs: 1, images_per_epoch: 8, batch_size: 4}\n"
        "stage2: {epochs: 6, images_per_epoch: 40, batch_size: 4}\n"
        "quantization: {min_sqnr: -100, max_dice_loss: 1, momentum: 0.5}\n"
    )
    run = tmp_path / "run"
    args = (small_data, "-o", run, "--recipe", settings)
    process = start(*args)
    last = run / "stage2/last.ckpt"
    wait_for(last, process, tmp_path / "log")
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = torch.load(last, weights_only=True)["state_dict"]
    assert not (run / "stage2.ckpt").exists(), "killed too late to test anything"

    done = call("train", *args, "--resume")
    assert done.code == 0, done.err[-2000:]
    after = torch.load(last, weights_only=True)
    assert int(after["global_step"]) == 60
    highs = [name for name in before if name.endswith("input.high")]
    moved = [n for n in highs if not torch.equal(before[n], after["state_dict"][n])]
    assert len(moved) > len(highs) / 2


def test_two_devices(
    call: Call, small_data: Path, base_run: Path, recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    """Two processes on the CPU train both stages and allocate ranks alike."""
    settings = recipe(
        "accelerator: cpu\ndevices: 2\n"
        "stage1: {epochs: 3, images_per_epoch: 32, batch_size: 2}\n"
        "stage2: {epochs: 1, images_per_epoch: 16, batch_size: 2}\n"
    )
    options = ("--recipe", settings, "--checkpoint", base_run / "model.ckpt")
    done = call("train", small_data, "-o", tmp_path / "run", "--method", "adalora", *options)
    assert done.code == 0, done.err[-2000:]
    assert done.out.count("wrote ") == 1
    description = load(tmp_path / "run/model.ckpt").description
    assert description.stage == 2
    assert sum(description.ranks.values()) == 8 * 12
    assert (
        int(torch.load(tmp_path / "run/stage1/last.ckpt", weights_only=True)["global_step"]) == 24
    )


def test_patience_waits_for_the_final_ranks(
    call_here: Call, small_data: Path, base_run: Path, tmp_path: Path
) -> None:
    recipe = {
        "model": "vit_n",
        "image_size": 64,
        "data": {"workers": 0},
        "stage1": {"epochs": 10, "images_per_epoch": 8, "batch_size": 4, "patience": 2},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    options = ("--checkpoint", base_run / "model.ckpt", "--stage", "1")
    run = tmp_path / "run"
    done = call_here("train", small_data, "-o", run, "--recipe", tmp_path / "recipe.yaml", *options)
    assert done.code == 0
    assert sum(load(run / "model.ckpt").description.ranks.values()) == 8 * 12


def test_training_starts_from_the_average(
    call: Call, small_data: Path, base_run: Path, tmp_path: Path
) -> None:
    base = base_run / "model.ckpt"
    checkpoint = torch.load(base, weights_only=True)
    for value in checkpoint["state_dict"].values():
        value *= 3
    torch.save(checkpoint, tmp_path / "other.ckpt")
    (tmp_path / "recipe.yaml").write_text(
        "model: vit_n\nimage_size: 96\nmethod: full\ndata: {workers: 0}\n"
        "stage1: {epochs: 1, batch_size: 4, lr: 1.0e-12, decoder_lr: 1.0e-12}\n"
    )
    options = ("--recipe", tmp_path / "recipe.yaml", "--stage", "1", "--checkpoint", base)
    average = ("--soup", tmp_path / "other.ckpt")
    done = call("train", small_data, "-o", tmp_path / "run", *options, *average)
    assert done.code == 0, done.err[-2000:]
    before = load(base).model.state_dict()
    for name, value in load(tmp_path / "run" / "model.ckpt").model.state_dict().items():
        torch.testing.assert_close(value, 2 * before[name], atol=1e-5, rtol=1e-4, msg=name)
    settings = json.loads((tmp_path / "run" / "run.json").read_text())
    assert len(settings["soup_sha256"]) == 1


def test_quantization_starts_from_the_average(
    call: Call, small_data: Path, base_run: Path, fine_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "data: {workers: 0}\nsensitivity_images: 1\ncalibration_images: 2\n"
        "stage2: {epochs: 1, images_per_epoch: 8, batch_size: 4, lr: 1.0e-12,\n"
        "  decoder_lr: 1.0e-12}\n"
    )
    files = (base_run / "model.ckpt", fine_run / "stage1.ckpt")
    options = ("--recipe", tmp_path / "recipe.yaml", "--stage", "2", "--checkpoint", files[0])
    done = call("train", small_data, "-o", tmp_path / "run", *options, "--soup", files[1])
    assert done.code == 0, done.err[-2000:]
    first, second = (float_state(load(path).model) for path in files)
    for name, value in float_state(load(tmp_path / "run" / "model.ckpt").model).items():
        wanted = (first[name] + second[name]) / 2
        torch.testing.assert_close(value, wanted, atol=1e-5, rtol=1e-4, msg=name)
