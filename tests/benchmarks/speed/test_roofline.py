"""Ceilings of the machine and shares of them. No time is asserted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cxrseg.benchmarks.speed import roofline, timing
from cxrseg.benchmarks.speed.macs import Macs
from cxrseg.benchmarks.speed.products import open_product
from cxrseg.benchmarks.speed.roofline import Ceiling, ceiling_of, use_of

Bench = Callable[..., Any]

SMALL = ((8, 16, 4), (4, 8, 8))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "settle", lambda: None)
    monkeypatch.setattr(roofline, "SHAPES", SMALL)


def test_shares_by_hand() -> None:
    """1 GMAC in integers at 200 GOP/s take 10 ms, 0.1 in float at 50 GOP/s 4 ms."""
    ceilings = [
        Ceiling("FP32", (1, 1, 1), "Gemm", 1.0, 1.0, 50.0),
        Ceiling("INT8", (1, 1, 1), "QGemm", 1.0, 1.0, 200.0),
        Ceiling("INT8", (2, 1, 1), "QGemm", 1.0, 1.0, 100.0),
    ]
    use = use_of("m", Macs(10**9, 10**8), [28.0, 20.0, 90.0], ceilings)
    assert use.ideal == pytest.approx(14)
    assert use.share == pytest.approx(0.5)
    assert use.rate == pytest.approx(2.2e9 / 28e-3 / 1e9, rel=1e-3)
    product = open_product("FP32", SMALL[0], 1, 0)
    ceiling = ceiling_of(product, [2.0, 1.0, 3.0])
    assert (ceiling.best, ceiling.median) == (1.0, 2.0)
    assert ceiling.rate == pytest.approx(2 * 8 * 16 * 4 / 1e6, abs=1e-3)


def test_record(bench: Bench, tmp_path: Path, exports: dict[str, Path]) -> None:
    output = tmp_path / "roofline.json"
    done = bench("roofline", *exports.values(), "--runs", 3, "--threads", 1, "-o", output)
    assert done.code == 0, done.err
    assert "times as fast as FP32 here" in done.out
    data = json.loads(output.read_text())["data"]
    assert [each["title"] for each in data["models"]] == ["int8.onnx", "fp32.onnx"]
    assert [each["integer_macs"] > 0 for each in data["models"]] == [True, False]
    assert [tuple(each["shape"]) for each in data["ceilings"]] == [*SMALL, *SMALL]
    for each in data["models"]:
        assert each["share"] == pytest.approx(each["ideal"] / each["median"], rel=1e-3)
    assert (tmp_path / "roofline-ceilings.png").is_file()
    refused = bench("roofline", tmp_path / "none.onnx")
    assert refused.code == 1 and "no such model file" in refused.err
