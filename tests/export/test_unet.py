"""A U-Net goes the same way: float in the checkpoint, integers in the file, the same masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F

from cxrseg.export.graph import unet
from cxrseg.export.report import Report
from cxrseg.export.verify.backends import saturates
from cxrseg.export.verify.proof import TRAINED_IN_FLOAT
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.runtime.segmenter import Segmenter
from cxrseg.trainer.adapt.layer_table import layer_table
from cxrseg.trainer.adapt.quantization import set_mode
from cxrseg.trainer.adapt.settings import QuantizationConfig
from cxrseg.trainer.fit.checkpoint import load
from cxrseg.trainer.networks.unet import UNet, UNetArchitecture
from helpers.models.exported import FIELDS, card_of, constants, int8_layers, products

Call = Callable[..., Any]
Export = Callable[..., Report]

RECIPE = """
model: unet
unet: {channels: [8, 8, 16, 16, 32]}
image_size: 96
augment:
  {geometry: 0, mirror: 0, crop: 0, gamma: 0, contrast: 0, noise: 0, blur: 0, occlusion: 0,
   invert: 0}
stage1: {epochs: 3, images_per_epoch: 480, batch_size: 8, lr: 0.003}
"""


@pytest.fixture(scope="module")
def checkpoint(call: Call, phantom_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("unet")
    (home / "recipe.yaml").write_text(RECIPE)
    done = call("train", phantom_data, "-o", home / "run", "--recipe", home / "recipe.yaml")
    assert done.code == 0, done.err[-2000:]
    return home / "run/model.ckpt"


@pytest.fixture(scope="module")
def integer(export: Export, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return export(tmp_path_factory.mktemp("unet-int8") / "unet.onnx", checkpoint)


def untrained(seed: int = 5) -> UNet:
    torch.manual_seed(seed)
    network = UNet(UNetArchitecture((4, 8, 8)), 32, FIELDS)
    network.train()
    with torch.no_grad():  # statistics for the batch norms
        for _ in range(20):
            network(torch.rand(4, 1, 32, 32))
    return network.eval()


class TestInt8:
    def test_every_convolution_runs_in_integers(self, integer: Report) -> None:
        coverage = integer.proof.coverage
        assert coverage.fallen_back == ()
        assert set(integer.precision.values()) == {"int8"} and len(integer.precision) == 23
        assert set(coverage.executed) == set(products(integer)) == set(integer.precision)
        assert set(coverage.executed.values()) == {"QLinearConv"}
        assert not {"Conv", "FusedConv", "ConvTranspose", "Relu"} & set(coverage.operators)
        assert coverage.operators["QLinearAdd"] == 8 and coverage.operators["QLinearConcat"] == 4

    def test_weights_are_of_seven_bits(self, integer: Report) -> None:
        held = constants(onnx.load(integer.path))
        for layer in int8_layers(integer):
            weight = held[f"{layer}.weight_int8"]
            assert weight.dtype == np.int8
            assert 60 < int(np.abs(weight.astype(int)).max()) <= 63, layer
        assert not [n for n, a in held.items() if a.dtype == np.float32 and a.size >= 256]

    def test_masks_agree(self, integer: Report) -> None:
        assert len(integer.proof.agreements) == 3
        for name, agreement in integer.proof.agreements.items():
            assert agreement.with_lungs == agreement.images == 8
            assert agreement.mean >= (0.99 if name == TRAINED_IN_FLOAT else 0.999), name

    def test_contract_and_card(self, integer: Report, checkpoint: Path) -> None:
        graph = onnx.load(integer.path).graph
        (image,), (logits,) = graph.input, graph.output
        assert [d.dim_value for d in image.type.tensor_type.shape.dim] == [1, 1, 96, 96]
        assert [d.dim_value for d in logits.type.tensor_type.shape.dim] == [1, 2, 24, 24]
        card = card_of(integer.path)
        assert card.name == "cxrseg-unet" and card.labels == FIELDS
        assert card.preprocessing == Preprocessing(96)
        assert card.precision == integer.precision
        assert card.checkpoint_sha256 == load(checkpoint).sha256

    def test_the_runtime_takes_it(self, integer: Report, phantom_data: Path) -> None:
        segmenter = Segmenter(integer.path, "cpu")
        for path in (phantom_data / "test/images").iterdir():
            truth = cv2.imread(str(path.parent.parent / "masks" / path.name), -1)
            mask = segmenter.segment(path).mask
            for label in (1, 2):
                both = np.sum((mask == label) & (truth == label))
                assert 2 * both / (np.sum(mask == label) + np.sum(truth == label)) > 0.75


class TestOptions:
    def test_float(self, export: Export, checkpoint: Path, tmp_path: Path) -> None:
        report = export(tmp_path / "unet.onnx", checkpoint, precision="fp32")
        assert set(report.precision.values()) == {"fp32"} and len(report.precision) == 23
        assert min(a.mean for a in report.proof.agreements.values()) > 0.9999
        operators = {node.op_type for node in onnx.load(report.path).graph.node}
        assert "BatchNormalization" not in operators and "ConvTranspose" in operators

    def test_layers_kept_in_float(self, export: Export, checkpoint: Path, tmp_path: Path) -> None:
        patterns = ("network.model.0.*", "network.model.2.0.conv")
        report = export(tmp_path / "unet.onnx", checkpoint, keep_fp16=patterns)
        kept = [name for name, precision in report.precision.items() if precision == "fp16"]
        assert kept == [
            "network.model.0.conv.unit0.conv",
            "network.model.0.conv.unit1.conv",
            "network.model.0.residual",
            "network.model.2.0.conv",
        ]
        held = constants(onnx.load(report.path))
        assert not [name for name in kept if f"{name}.weight_int8" in held]
        assert report.proof.coverage.fallen_back == ()

    def test_eight_bits(self, export: Export, checkpoint: Path, tmp_path: Path) -> None:
        if saturates():
            with pytest.raises(CxrsegError, match=r"--weight-bits 8: .* saturate"):
                export(tmp_path / "unet.onnx", checkpoint, weight_bits=8)
            return
        report = export(tmp_path / "unet.onnx", checkpoint, weight_bits=8)
        held = constants(onnx.load(report.path))
        largest = [np.abs(held[f"{n}.weight_int8"].astype(int)).max() for n in int8_layers(report)]
        assert max(largest) == 127

    def test_ranges_need_images(self, call: Call, checkpoint: Path, tmp_path: Path) -> None:
        done = call("export", checkpoint, "-o", tmp_path / "unet.onnx")
        assert done.code == 1
        assert "training set no activation ranges" in done.err
        assert "--calibration-images" in done.err
        assert not list(tmp_path.iterdir())

    def test_ranges_come_from_the_calibration_images(
        self, export: Export, checkpoint: Path, integer: Report, tmp_path: Path
    ) -> None:
        (tmp_path / "dark").mkdir()
        rng = np.random.default_rng(0)
        for index in range(2):
            noise = rng.integers(0, 255, (96, 96), np.uint8)
            cv2.imwrite(str(tmp_path / f"dark/{index}.png"), noise)
        with pytest.raises(CxrsegError, match=r"masks agree on|finds lungs on"):
            export(tmp_path / "unet.onnx", checkpoint, calibration_images=tmp_path / "dark")

    def test_ranges_come_from_training_data_alike(
        self, export: Export, checkpoint: Path, phantom_data: Path, tmp_path: Path
    ) -> None:
        one = export(tmp_path / "a.onnx", checkpoint, calibration_images=phantom_data)
        folder = phantom_data / "train/images"
        other = export(tmp_path / "b.onnx", checkpoint, calibration_images=folder)
        assert one.sha256 == other.sha256


class TestNetwork:
    @torch.no_grad()
    def test_folding_changes_nothing(self) -> None:
        network, image = untrained(), torch.rand(2, 1, 32, 32)
        folded = unet.folded(network)
        assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        torch.testing.assert_close(folded(image), network(image), rtol=1e-4, atol=1e-5)

    @torch.no_grad()
    def test_without_rounding_it_is_the_same_network(self) -> None:
        """Phases, sums and concatenations: all but the rounding is exact."""
        network, images = untrained(), torch.rand(8, 1, 32, 32)
        layers = layer_table(network)
        rounded = unet.quantized(network, layers, QuantizationConfig(), [images])
        before = network(images)
        error = rounded(images) - before
        assert 0 < float(error.square().mean() / before.square().mean()) < 0.02
        set_mode(rounded, "bypass")
        torch.testing.assert_close(rounded(images), before, rtol=1e-4, atol=1e-5)
        assert [row.name for row in layer_table(rounded)] == [row.name for row in layers]

    @torch.no_grad()
    def test_phases_are_the_transposed_convolution(self) -> None:
        torch.manual_seed(1)
        layer = torch.nn.ConvTranspose2d(3, 5, 3, stride=2, padding=1, output_padding=1)
        x = torch.randn(2, 3, 7, 6)
        phases = unet.PhaseConv2d(layer, QuantizationConfig())
        torch.testing.assert_close(phases(x), F.relu(layer(x)), rtol=1e-4, atol=1e-5)
