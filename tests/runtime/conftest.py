"""Files of a tiny model, and images for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from helpers.drawing.phantoms import blocks
from helpers.models.tiny import TinyModel, build_model

ModelFile = Callable[..., Path]


@pytest.fixture
def model_file(tmp_path: Path) -> ModelFile:
    """Write a `TinyModel` with these attributes and return its path."""
    folder = tmp_path / "models"

    def make(name: str = "tiny.onnx", **options: object) -> Path:
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_bytes(build_model(TinyModel(**options)))  # type: ignore[arg-type]
        return path

    return make


@pytest.fixture
def model(model_file: Callable[..., Path]) -> list[str]:
    """Return the options of a run with the tiny model, on one thread."""
    return ["--model", str(model_file()), "--device", "cpu", "--threads", "1"]


@pytest.fixture
def chest() -> Callable[..., NDArray[np.uint8]]:
    return blocks


@pytest.fixture
def xrays(tmp_path: Path) -> Path:
    """Return an empty folder for images."""
    folder = tmp_path / "xrays"
    folder.mkdir()
    return folder


SaveChest = Callable[..., Path]


@pytest.fixture
def save_chest() -> SaveChest:
    """Save a chest image at a path and return it."""

    def save(path: Path, **options: bool | int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(blocks(**options)).save(path)  # type: ignore[arg-type]
        return path

    return save


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return self.err.splitlines()


RunCommand = Callable[..., Result]


@pytest.fixture
def run_cxrseg(capfd: pytest.CaptureFixture[str]) -> RunCommand:
    """Run ``cxrseg-run`` in this process; capture what the process wrote, libraries included."""

    def run(*args: str | Path) -> Result:
        from cxrseg.runtime.cli import main

        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(arg) for arg in args])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Result(int(exit_.value.code or 0), out, err)

    return run


@pytest.fixture
def run_tiny(run_cxrseg: RunCommand, model: list[str]) -> RunCommand:
    """Run ``cxrseg-run`` with the tiny model, on one thread."""
    return partial(run_cxrseg, *model)


@pytest.fixture
def chest_png(save_chest: SaveChest, xrays: Path) -> Path:
    """Return a chest image, the only file in `xrays`."""
    return save_chest(xrays / "x.png")
