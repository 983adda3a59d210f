"""A data set of phantoms, and a nano model that was trained on it as a user would train it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

# Before any test imports ONNX Runtime, which it keeps from reporting its use.
import cxrseg.runtime  # noqa: F401
from helpers.drawing import phantoms
from helpers.paths import DATA

NO_XRAYS = f"needs real X-rays in {DATA}"

# Of tests that a shell started in the background, every command would ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # nor would they end with their terminal, under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

NANO_SIZE = 96

PACKAGES = {"train": "trainer", "export": "export", "run": "runtime", "bench": "benchmarks"}
"""Command -> the package that it belongs to."""

STILL = """
augment:
  {geometry: 0, mirror: 0, crop: 0, gamma: 0, contrast: 0, noise: 0, blur: 0, occlusion: 0,
   invert: 0}
"""
"""No augmentation: few steps must do."""

RECIPE = f"""
model: vit_n
image_size: {NANO_SIZE}
{STILL}
stage1: {{epochs: 3, images_per_epoch: 480, batch_size: 8, lr: 0.003, decoder_lr: 0.003}}
"""

FINE_RECIPE = f"""
model: vit_n
image_size: {NANO_SIZE}
{STILL}
stage1: {{epochs: 2, images_per_epoch: 160, batch_size: 8, lr: 0.003, decoder_lr: 0.003}}
stage2: {{epochs: 2, images_per_epoch: 160, batch_size: 8, lr: 0.001, decoder_lr: 0.0003}}
quantization: {{min_sqnr: -100, max_dice_loss: 1}}
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not DATA.is_dir():
        for item in items:
            if item.get_closest_marker("xrays"):
                item.add_marker(pytest.mark.skip(reason=NO_XRAYS))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.getreports("skipped")
    count = sum(NO_XRAYS in str(report.longrepr) for report in skipped)
    if count:
        terminalreporter.write_line(f"{count} tests were skipped: {NO_XRAYS}, which is absent")


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


def environment() -> dict[str, str]:
    """Return the environment for a command: one thread, no terminal tricks."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def command_line(program: str, *args: object) -> list[str]:
    """Return what starts one of the commands with this Python."""
    return [sys.executable, "-m", f"cxrseg.{PACKAGES[program]}.cli", *(str(arg) for arg in args)]


Call = Callable[..., Outcome]


class Commands:
    """How to start the commands as processes."""

    line = staticmethod(command_line)
    environment = staticmethod(environment)


@pytest.fixture(scope="session")
def commands() -> type[Commands]:
    return Commands


@pytest.fixture(scope="session")
def call() -> Call:
    """Run one of the commands (``train``, ``export``, ``run``) as a process of its own."""

    def run(program: str, *args: object) -> Outcome:
        done = subprocess.run(
            command_line(program, *args),
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def call_here(capfd: pytest.CaptureFixture[str]) -> Call:
    """Run one of the commands in this process: quicker, for what ends before the work begins."""

    def run(program: str, *args: object) -> Outcome:
        main = import_module(f"cxrseg.{PACKAGES[program]}.cli").main
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(arg) for arg in args])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Outcome(int(stop.value.code or 0), out, err)

    return run


@pytest.fixture(scope="session")
def phantom_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder of phantoms of the nano model's size."""
    folder = tmp_path_factory.mktemp("phantoms") / "xrays"
    phantoms.write_dataset(folder, {"train": 48, "val": 8, "test": 4}, NANO_SIZE, seed=0)
    return folder


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder of a few phantoms of 64 pixels."""
    folder = tmp_path_factory.mktemp("small") / "xrays"
    phantoms.write_dataset(folder, {"train": 4, "val": 2, "test": 1}, 64, seed=100)
    return folder


def _train(call: Call, *args: object) -> None:
    done = call("train", *args)
    assert done.code == 0, done.err[-2000:]


@pytest.fixture(scope="session")
def base_run(call: Call, phantom_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run: full, stage 1."""
    home = tmp_path_factory.mktemp("base")
    (home / "recipe.yaml").write_text(RECIPE)
    options = ("--recipe", home / "recipe.yaml", "--method", "full", "--stage", "1")
    _train(call, phantom_data, "-o", home / "run", *options)
    return home / "run"


@pytest.fixture(scope="session")
def fine_run(
    call: Call, phantom_data: Path, base_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the folder of a finished run: AdaLoRA from `base_run`, both stages."""
    home = tmp_path_factory.mktemp("fine")
    (home / "recipe.yaml").write_text(FINE_RECIPE)
    options = ("--recipe", home / "recipe.yaml", "--checkpoint", base_run / "model.ckpt")
    _train(call, phantom_data, "-o", home / "run", *options)
    return home / "run"
