"""The single products that give the ceilings: what they compute, and in which numbers."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from cxrseg.benchmarks.speed.products import KINDS, Kind, gemm, gemm_input, open_product


@pytest.mark.parametrize("kind", KINDS)
def test_products_multiply(kind: Kind) -> None:
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


@pytest.mark.parametrize(("kind", "operator"), [("FP32", "Gemm"), ("INT8", "QGemm")])
def test_operators_of_the_runtime(kind: Kind, operator: str) -> None:
    assert open_product(kind, (8, 16, 4), 1, 0).operator == operator
