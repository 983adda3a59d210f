"""The model's file, or its two files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from cxrseg.export.graph import files as writing
from cxrseg.export.report import Report
from cxrseg.export.verify import proof as proving
from cxrseg.export.verify.agreement import Limits
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.segmenter import Segmenter
from helpers.models.exported import logits_of

Export = Callable[..., Report]


class TestTwoFiles:
    """What is too large for one file: a model above the limit, which is lowered here."""

    @pytest.fixture
    def two(self, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
        monkeypatch.setattr(writing, "ONE_FILE", 100_000)
        return export(tmp_path / "m.onnx", precision="fp32")

    def test_same_logits(self, two: Report, fp32: Report, batch: NDArray[np.float32]) -> None:
        assert [path.name for path in two.files] == ["m.onnx", "m.onnx.data"]
        assert sorted(two.path.parent.iterdir()) == sorted(two.files)
        assert two.size == sum(path.stat().st_size for path in two.files)
        assert two.path.stat().st_size < 200_000 + fp32.size // 10
        session = onnxruntime.InferenceSession(two.path)
        logits = session.run(None, {"image": batch})[0][0]
        np.testing.assert_allclose(logits, logits_of(fp32.path, batch), atol=1e-5)

    def test_refers_to_its_neighbor_alone(self, two: Report) -> None:
        model = onnx.load(two.path, load_external_data=False)
        places = {
            e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"
        }
        assert places == {"m.onnx.data"}

    def test_is_not_for_the_runtime(self, two: Report) -> None:
        with pytest.raises(CxrsegError, match=r"m\.onnx: is not a model that ONNX"):
            Segmenter(two.path, "cpu")

    def test_a_failure_leaves_neither(
        self, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writing, "ONE_FILE", 100_000)
        monkeypatch.setattr(proving, "SAME_NETWORK", Limits(1.1, 1.1))
        with pytest.raises(CxrsegError, match="masks agree on"):
            export(tmp_path / "m.onnx", precision="fp32")
        assert not list(tmp_path.iterdir())

    def test_size_is_known_before(self, fp32: Report, int8: Report) -> None:
        for report in (fp32, int8):
            model = ir.load(report.path)
            assert abs(writing.serialized_size(model) - report.size) <= 4096
