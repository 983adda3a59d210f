"""The paper's arithmetic, and the bytes of real exports."""

from __future__ import annotations

import json
from pathlib import Path

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
