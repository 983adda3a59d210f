"""Counts of multiplications, by hand and of both exports of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cxrseg.benchmarks.speed.macs import Macs, count_macs
from cxrseg.benchmarks.speed.products import KINDS, gemm
from cxrseg.runtime.core.errors import CxrsegError


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
    for kind, expected in zip(KINDS, (Macs(0, 8 * 16 * 4), Macs(8 * 16 * 4, 0)), strict=True):
        (tmp_path / "g.onnx").write_bytes(gemm(kind, (8, 16, 4)))
        assert count_macs(tmp_path / "g.onnx") == expected


def test_both_exports_of_a_network_take_as_many(exports: dict[str, Path]) -> None:
    """The nano model at 96 px: 36 cells of width 32 in two blocks, by hand up to the neck."""
    integer, exact = (count_macs(exports[name]) for name in ("int8", "fp32"))
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
