"""Counts of multiplications, and the products that give the ceilings. No time is asserted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from cxrseg.benchmarks.speed import latency, roofline
from cxrseg.benchmarks.speed.macs import Macs, count_macs
from cxrseg.benchmarks.speed.roofline import Ceiling, ceiling_of, gemm, gemm_input, products, use_of
from cxrseg.runtime.core.errors import CxrsegError

Bench = Callable[..., Any]

SMALL = ((8, 16, 4), (4, 8, 8))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "settle", lambda: None)
    monkeypatch.setattr(roofline, "SHAPES", SMALL)


def write(path: Path, nodes: list[Any], shape: list[Any], weights: dict[str, Any]) -> Path:
    graph = helper.make_graph(
        nodes,
        "counted",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(path))
    return path


def test_macs_by_hand(tmp_path: Path) -> None:
    """A strided convolution, a batched product and a Gemm, for one image of an open batch."""
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["c"], strides=[2, 2]),
        helper.make_node("Reshape", ["c", "form"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["m"]),
        helper.make_node("MatMul", ["matrix", "matrix"], ["constant"]),
        helper.make_node("MatMul", ["m", "constant"], ["n"]),
        helper.make_node("Reshape", ["n", "rows"], ["r"]),
        helper.make_node("Gemm", ["r", "last"], ["y"], transB=1),
    ]
    weights = {
        "kernel": np.zeros((6, 2, 2, 2), np.float32),
        "form": np.array([3, 2, 16]),
        "matrix": np.zeros((16, 16), np.float32),
        "rows": np.array([-1, 16]),
        "last": np.zeros((5, 16), np.float32),
    }
    path = write(tmp_path / "m.onnx", nodes, ["N", 2, 8, 8], weights)
    convolution = 6 * 4 * 4 * (2 * 2 * 2)
    assert count_macs(path) == Macs(0, convolution + 2 * (6 * 16 * 16) + 6 * 16 * 5)


def test_integer_products_are_told_apart(tmp_path: Path) -> None:
    for kind, expected in (("INT8", Macs(8 * 16 * 4, 0)), ("FP32", Macs(0, 8 * 16 * 4))):
        (tmp_path / "g.onnx").write_bytes(gemm(kind, (8, 16, 4)))  # type: ignore[arg-type]
        assert count_macs(tmp_path / "g.onnx") == expected


def test_both_exports_of_a_network_take_as_many(paper_run: Path) -> None:
    """The nano model at 96 px: 36 cells of width 32 in two blocks, by hand up to the neck."""
    integer, exact = (count_macs(paper_run / f"{name}.onnx") for name in ("int8", "fp32"))
    assert exact.integer == 0
    cells, width = 36, 32
    encoder = cells * 256 * width + 2 * cells * 12 * width * width
    assert integer.integer > encoder
    # Products whose operands are constant were computed by the FP32 export already.
    assert integer.total == pytest.approx(exact.total, rel=0.01)


def test_what_cannot_be_counted_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Einsum", ["image", "image"], ["y"], equation="nchw,nchw->n")]
    with pytest.raises(CxrsegError, match="Einsum"):
        count_macs(write(tmp_path / "e.onnx", nodes, [1, 1, 8, 8], {}))
    nodes = [helper.make_node("MatMul", ["image", "image"], ["y"])]
    with pytest.raises(CxrsegError, match="shape"):
        count_macs(write(tmp_path / "s.onnx", nodes, [1, 1, "S", "S"], {}))


@pytest.mark.parametrize("kind", ["FP32", "INT8"])
def test_products_multiply(kind: Any) -> None:
    shape = (8, 64, 16)
    session = onnxruntime.InferenceSession(gemm(kind, shape), providers=["CPUExecutionProvider"])
    x = gemm_input(kind, shape)
    found = session.run(None, {"x": x})[0]
    assert found.shape == (8, 16) and found.dtype == x.dtype
    model = onnx.load_from_string(gemm(kind, shape))
    weights = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    if kind == "FP32":
        np.testing.assert_allclose(found, x @ weights["weight"].T, rtol=1e-3, atol=1e-4)
    else:
        real = (x.astype(float) - 128) / 255 @ weights["weight"].T / 63
        expected = np.clip(np.rint(real / weights["output_scale"]) + 128, 0, 255)
        assert np.abs(found - expected).max() <= 1
        assert found.std() > 10, "the range is used"


def test_integer_products_run_in_integers() -> None:
    assert {each.operator for each in products(1, 0) if each.kind == "INT8"} == {"QGemm"}
    assert {each.operator for each in products(1, 0) if each.kind == "FP32"} == {"Gemm"}


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
    product = products(1, 0)[0]
    ceiling = ceiling_of(product, [2.0, 1.0, 3.0])
    assert (ceiling.best, ceiling.median) == (1.0, 2.0)
    assert ceiling.rate == pytest.approx(2 * 8 * 16 * 4 / 1e6, abs=1e-3)


def test_record(bench: Bench, model: Path, tmp_path: Path, paper_run: Path) -> None:
    output = tmp_path / "roofline.json"
    files = [paper_run / "int8.onnx", paper_run / "fp32.onnx"]
    done = bench("roofline", *files, "--runs", 3, "--threads", 1, "-o", output)
    assert done.code == 0, done.err
    record = json.loads(output.read_text())
    assert [each["title"] for each in record["models"]] == ["int8.onnx", "fp32.onnx"]
    assert [each["integer_macs"] > 0 for each in record["models"]] == [True, False]
    assert [tuple(each["shape"]) for each in record["ceilings"]] == [*SMALL, *SMALL]
    for each in record["models"]:
        assert len(each["samples"]) == 3
        assert each["share"] == pytest.approx(each["ideal"] / each["median"], abs=1e-3)
    assert (tmp_path / "roofline-ceilings.svg").is_file()
    refused = bench("roofline", tmp_path / "none.onnx")
    assert refused.code == 1 and "no such model file" in refused.err
