"""Layers, attention and bits other than the default."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

from cxrseg.export.report import Report, table
from cxrseg.export.verify.backends import saturates
from cxrseg.export.verify.images import synthetic_radiographs
from cxrseg.export.verify.operators import operator_coverage
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.trainer.adapt.quantization import calibrate, quantize
from cxrseg.trainer.adapt.settings import QuantizationConfig
from cxrseg.trainer.fit.checkpoint import load, save
from helpers.models.exported import card_of, constants, int8_layers, products

Export = Callable[..., Report]


class TestSelection:
    def test_layers_kept_in_float(self, export: Export, base_run: Path, tmp_path: Path) -> None:
        """Layers and products that a pattern keeps are FP16 in the file, the others int8."""
        config = QuantizationConfig(keep_float=("mask_decoder.*", "image_encoder.blocks.0.*"))
        loaded = load(base_run / "model.ckpt")
        quantize(loaded.model, config)
        radiographs = np.stack([cv2.resize(r, (96, 96)) for r in synthetic_radiographs(8)])
        calibrate(loaded.model, [torch.from_numpy(radiographs[:, None])])
        description = replace(loaded.description, quantization=config, stage=2)
        save(loaded.model, description, tmp_path / "m.ckpt")

        report = export(tmp_path / "m.onnx", tmp_path / "m.ckpt", profile="gpu")
        kept = [n for n, p in report.precision.items() if p == "fp16"]
        assert "image_encoder.blocks.0.mlp.lin1" in kept
        assert "image_encoder.blocks.0.attn.matmul" in kept
        assert set(report.precision.values()) == {"int8", "fp16", "constant"}
        assert all(n.startswith(("mask_decoder.", "image_encoder.blocks.0.")) for n in kept)
        held = constants(onnx.load(report.path))
        for layer in kept:
            assert f"{layer}.weight_int8" not in held
        assert report.proof.coverage.fallen_back == ()
        # Asked for more than the file holds, the coverage names what is missing.
        missing = (
            "image_encoder.blocks.0.mlp.lin1",
            "image_encoder.blocks.0.attn.matmul.scores",
            "image_encoder.blocks.0.attn.matmul.mix",
        )
        coverage = operator_coverage(report.path.read_bytes(), [*products(report), *missing])
        assert coverage.fallen_back == missing

    def test_rows_of_attention_with_their_own_scales(
        self, export: Export, base_run: Path, tmp_path: Path
    ) -> None:
        config = QuantizationConfig(row_scales=True)
        loaded = load(base_run / "model.ckpt")
        quantize(loaded.model, config)
        radiographs = np.stack([cv2.resize(r, (96, 96)) for r in synthetic_radiographs(8)])
        calibrate(loaded.model, [torch.from_numpy(radiographs[:, None])])
        description = replace(loaded.description, quantization=config, stage=2)
        save(loaded.model, description, tmp_path / "m.ckpt")

        report = export(tmp_path / "m.onnx", tmp_path / "m.ckpt")
        mixes = [name for name in products(report) if name.endswith(".matmul.mix")]
        operators = Counter(node.op_type for node in onnx.load(report.path).graph.node)
        assert operators["ReduceMax"] == len(mixes) == loaded.model.architecture.depth
        assert report.proof.coverage.fallen_back == ()

    def test_patterns_of_the_command(self, export: Export, tmp_path: Path) -> None:
        report = export(tmp_path / "m.onnx", keep_fp16=("*.neck.*", "*.blocks.0.attn.matmul"))
        kept = {n for n, p in report.precision.items() if p == "fp16"}
        assert kept == {
            "image_encoder.neck.0",
            "image_encoder.neck.2",
            "image_encoder.blocks.0.attn.matmul",
        }
        assert card_of(report.path).precision == report.precision

    def test_a_pattern_without_a_layer(self, export: Export, tmp_path: Path) -> None:
        with pytest.raises(CxrsegError, match=r"--keep-fp16 nek: matches no INT8 layer"):
            export(tmp_path / "m.onnx", keep_fp16=("nek",))
        assert not list(tmp_path.iterdir())

    def test_eight_bits(self, export: Export, int8: Report, tmp_path: Path) -> None:
        if saturates():
            with pytest.raises(CxrsegError, match=r"--weight-bits 8: .* saturate"):
                export(tmp_path / "m.onnx", weight_bits=8)
            assert not list(tmp_path.iterdir())
            return
        report = export(tmp_path / "m.onnx", weight_bits=8)
        for path, limit in ((report.path, 127), (int8.path, 63)):
            held = constants(onnx.load(path))
            largest = [
                int(np.abs(held[f"{n}.weight_int8"].astype(int)).max()) for n in int8_layers(report)
            ]
            assert max(largest) == limit

    def test_sensitivities_are_listed(self, int8: Report) -> None:
        assert set(int8.sensitivity) == set(int8.precision)
        lines = table(int8).splitlines()
        for name, each in int8.sensitivity.items():
            (line,) = [text for text in lines if text.split()[:1] == [name]]
            assert line.split()[1:] == [
                int8.precision[name],
                f"{each.sqnr:.1f}",
                f"{each.dice_loss:.5f}",
            ]
