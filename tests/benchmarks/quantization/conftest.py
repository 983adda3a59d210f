"""Both exports of the fine-tuned nano model."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrseg.benchmarks.quantization.exports import measure
from cxrseg.trainer.fit.checkpoint import load


@pytest.fixture(scope="session")
def exports(fine_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``int8.onnx`` and ``fp32.onnx``."""
    folder = tmp_path_factory.mktemp("exports")
    measure(load(fine_run / "model.ckpt"), folder)
    return folder
