"""Runs that are killed or stopped, and go on where they were."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cxrseg.trainer.fit.checkpoint import load
from helpers.outcomes import Call, refused

Start = Callable[..., "subprocess.Popen[str]"]


PATIENCE_SECONDS = 120


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


def interrupt(process: subprocess.Popen[str], run: Path, log: Path, number: int) -> None:
    """Interrupt a run in its first stage; it must be saved."""
    last = run / "stage1/last.ckpt"
    wait_for(last, process, log)
    process.send_signal(number)
    assert process.wait(PATIENCE_SECONDS) == 130
    text = log.read_text()
    assert "Traceback" not in text
    assert "interrupted: " in text and "saved; the same command with --resume" in text
    assert int(torch.load(last, weights_only=True)["global_step"]) > 0
    assert not list(run.rglob(".*.part"))
    assert not (run / "model.ckpt").exists()


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
        interrupt(process, run, tmp_path / "log", signal.SIGINT)

        again = call_here("train", small_data, "-o", run, "--recipe", settings)
        refused(again, 1, "holds a run already")

    @pytest.mark.skipif(os.name != "posix", reason="sends signals of Unix")
    @pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
    def test_other_signals_save_as_ctrl_c_does(
        self,
        start: Start,
        small_data: Path,
        recipe: Callable[[str], Path],
        tmp_path: Path,
        number: str,
    ) -> None:
        settings = recipe("stage1: {epochs: 500, images_per_epoch: 40, batch_size: 4}\n")
        run = tmp_path / "run"
        process = start(small_data, "-o", run, "--recipe", settings)
        interrupt(process, run, tmp_path / "log", getattr(signal, number))


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
