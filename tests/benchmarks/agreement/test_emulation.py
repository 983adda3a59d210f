"""Masks of emulated CPUs; runs where qemu-user and the shipped model are."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxrseg.benchmarks.agreement import emulation
from cxrseg.benchmarks.cli import main
from cxrseg.runtime.models import DEFAULT_MODEL
from helpers import phantoms
from helpers.paths import REPO

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


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(emulation.EMULATOR) is None, reason="no qemu-user here")
@pytest.mark.parametrize("cpu", ["Haswell", "Nehalem"])
def test_shipped_model_gives_the_same_masks(cpu: str, tmp_path: Path) -> None:
    image = tmp_path / "phantom.png"
    cv2.imwrite(str(image), phantoms.draw(3, 256).image)
    native = emulation.masks([image], SHIPPED)
    emulated = emulation.masks([image], SHIPPED, (emulation.EMULATOR, "-cpu", cpu))
    assert emulation.compare(cpu, emulated, native).worst >= emulation.ENOUGH
