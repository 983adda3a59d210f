"""Masks of emulated CPUs; runs where qemu-user and the shipped model are."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cxrseg.benchmarks.agreement import emulation
from cxrseg.benchmarks.cli import main
from cxrseg.runtime.models import DEFAULT_MODEL
from helpers.drawing import phantoms
from helpers.paths import REPO

Bench = Callable[..., Any]

SHIPPED = REPO / "runtime/models" / DEFAULT_MODEL


def test_agreement_by_hand() -> None:
    one, other = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
    other[0, :5] = 1
    found = emulation.compare("cpu", {"a": one, "b": other}, {"a": one, "b": one})
    assert dict(found.shares) == {"a": 1.0, "b": 0.95} and found.with_lungs == 0
    assert found.worst == 0.95 and found.mean == pytest.approx(0.975)


def test_without_an_emulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(emulation, "EMULATOR", "qemu-nowhere")
    with pytest.raises(SystemExit) as stop:
        main(["emulation", str(tmp_path / "x.png")])
    assert stop.value.code == 1
    assert "qemu-nowhere: is not installed" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_record(
    bench: Bench, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An emulator that runs the program on this very CPU gives the same masks."""
    emulator = tmp_path / "emulator"
    emulator.write_text('#!/bin/sh\nshift 2\nexec "$@"\n')
    emulator.chmod(0o700)
    monkeypatch.setattr(emulation, "EMULATOR", str(emulator))
    images = [data.parent / f"images/{number}.png" for number in (1, 2)]
    output = tmp_path / "emulation.json"
    done = bench("emulation", *images, "--model", model, "--cpu", "Old", "-o", output)
    assert done.code == 0, done.err
    (old,) = json.loads(output.read_text())["data"]["comparisons"]
    assert (old["cpu"], old["images"], old["with_lungs"]) == ("Old", 2, 2)
    assert (old["mean"], old["worst"]) == (1, 1)
    shares = json.loads((tmp_path / "emulation-images.json").read_text())["images"]
    assert shares == [{"image": f"{n}.png", "equal": {"Old": 1.0}} for n in (1, 2)]
    monkeypatch.setattr(emulation, "ENOUGH", 1.1)
    assert bench("emulation", images[0], "--model", model, "--cpu", "Old").code == 1
    emulator.write_text("#!/bin/sh\necho uncaught target signal >&2\nexit 132\n")
    done = bench("emulation", images[0], "--model", model)
    assert done.code == 1 and "-cpu Haswell: failed" in done.err and "uncaught" in done.err


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(emulation.EMULATOR) is None, reason="no qemu-user here")
@pytest.mark.parametrize("cpu", ["Haswell", "Nehalem"])
def test_shipped_model_gives_the_same_masks(cpu: str, tmp_path: Path) -> None:
    image = tmp_path / "phantom.png"
    cv2.imwrite(str(image), phantoms.draw(3, 256).image)
    native = emulation.masks([image], SHIPPED)
    emulated = emulation.masks([image], SHIPPED, (emulation.EMULATOR, "-cpu", cpu))
    assert emulation.compare(cpu, emulated, native).worst >= emulation.ENOUGH
