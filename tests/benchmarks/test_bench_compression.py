"""The paper's arithmetic, and the bytes of real exports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from cxrseg.benchmarks.cli import main
from cxrseg.benchmarks.compression import PAPER_RATIO, paper_accounting


def test_the_papers_count() -> None:
    count = paper_accounting()
    assert count.ratio == pytest.approx(PAPER_RATIO, abs=0.005)
    assert count.linear == pytest.approx(67.6e6, rel=0.002)
    assert count.qkv == pytest.approx(21.3e6, rel=0.002)
    assert count.adapters == pytest.approx(2.7e6, rel=0.02)
    assert count.float_bytes == pytest.approx(366e6, rel=0.002)
    assert count.quantized_bytes == pytest.approx(163e6, rel=0.003)


def test_a_ratio_below_the_papers_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The nano model is mostly graph, not weights."""
    output = tmp_path / "compression.json"
    args = ["compression", "--model", "vit_n", "--image-size", "64", "-o", str(output)]
    args += ["--keep", str(tmp_path / "files"), "--stock"]
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 1
    captured = capsys.readouterr()
    assert "2.24 times" in captured.out
    assert "below the paper's 2.24" in captured.err
    record = json.loads(output.read_text())
    measured = record["measured"]
    assert measured["ratio"] == measured["fp32_bytes"] / measured["int8_bytes"] < PAPER_RATIO
    assert record["paper"]["ratio"] == pytest.approx(PAPER_RATIO, abs=0.005)
    files = tmp_path / "files"
    for precision in ("fp32", "int8"):
        assert (files / f"{precision}.onnx").stat().st_size == measured[f"{precision}_bytes"]
    assert measured["peak_memory_bytes"] is None or measured["peak_memory_bytes"] > 50e6
    image = np.random.default_rng(0).random((1, 1, 64, 64), dtype=np.float32)
    ours, stock = (
        onnxruntime.InferenceSession(files / f"{name}.onnx").run(None, {"image": image})[0]
        for name in ("fp32", "stock")
    )
    assert np.abs(stock).max() > 1e-3
    np.testing.assert_allclose(ours, stock, atol=1e-4 * np.abs(stock).max())


def test_stock_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["compression", "--model", "vit_n", "--stock"])
    assert stop.value.code == 2
    assert "--keep" in capsys.readouterr().err
