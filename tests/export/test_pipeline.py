"""The export from the checkpoint to the verified file, and what it reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from cxrseg.export.report import Report, table
from cxrseg.export.verify import proof as proving
from cxrseg.export.verify.agreement import compare
from cxrseg.export.verify.backends import onnx_backend
from cxrseg.export.verify.images import synthetic_radiographs
from cxrseg.export.verify.operators import INTEGER_OPS
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.runtime.segmenter import Segmenter
from cxrseg.trainer.adapt.quantization import unquantize
from cxrseg.trainer.fit.checkpoint import load
from helpers.models.exported import FIELDS, int8_layers, logits_of, products

Export = Callable[..., Report]


class TestInt8:
    def test_nothing_falls_back(self, int8: Report) -> None:
        assert int8.proof.coverage.fallen_back == ()
        assert len(products(int8)) == len(int8_layers(int8)) + 4
        assert set(int8.proof.coverage.executed) == set(products(int8))
        assert set(int8.proof.coverage.executed.values()) <= set(INTEGER_OPS)
        assert int8.proof.coverage.executed["image_encoder.neck.2"] == "QLinearConv"
        assert not {"Gemm", "Conv", "FusedGemm", "FusedConv"} & set(int8.proof.coverage.operators)

    def test_masks_agree(self, int8: Report) -> None:
        assert len(int8.proof.agreements) == 3
        for name, agreement in int8.proof.agreements.items():
            assert agreement.images == 8
            trained = name == proving.TRAINED
            assert agreement.mean >= (0.995 if trained else 0.9995), name
        assert int8.verified_on == "8 images of images"

    def test_masks_are_masks(self, int8: Report, phantom_data: Path) -> None:
        segmenter = Segmenter(int8.path)
        for path in sorted((phantom_data / "test/images").iterdir()):
            truth = cv2.imread(str(path.parent.parent / "masks" / path.name), -1)
            found = segmenter.segment(path).mask
            for label in (1, 2):
                overlap = np.sum((found == label) & (truth == label))
                assert 2 * overlap / np.sum((found == label).astype(int) + (truth == label)) > 0.75

    def test_report(self, int8: Report) -> None:
        assert int8.size == int8.path.stat().st_size < int8.fp32_size
        assert int8.ratio == int8.fp32_size / int8.size > 1.3
        text = table(int8)
        assert int8.sha256 in text and "QGemm" in text and "agreement" in text

    def test_folder_holds_the_file_alone(self, int8: Report) -> None:
        assert list(int8.path.parent.iterdir()) == [int8.path]


class TestFp32:
    def test_equals_pytorch(self, fp32: Report, fine_run: Path, batch: NDArray[np.float32]) -> None:
        model = load(fine_run / "model.ckpt").model
        unquantize(model)
        with torch.no_grad():
            expected = model(torch.from_numpy(batch))[0].numpy()
        np.testing.assert_allclose(logits_of(fp32.path, batch), expected, rtol=1e-3, atol=1e-3)
        assert expected.std() > 1

    def test_a_checkpoint_of_stage_1_will_do(
        self, export: Export, base_run: Path, tmp_path: Path
    ) -> None:
        report = export(tmp_path / "m.onnx", base_run / "model.ckpt", precision="fp32")
        assert min(a.mean for a in report.proof.agreements.values()) > 0.9999


class TestGpu:
    def test_same_masks_on_the_cpu(self, gpu: Report, int8: Report) -> None:
        one, other = (onnx_backend(report.path.read_bytes(), True) for report in (int8, gpu))
        agreement = compare(one, other, synthetic_radiographs(4), Preprocessing(96), FIELDS)
        assert agreement.mean > 0.99
        assert gpu.proof.coverage.fallen_back == ()
