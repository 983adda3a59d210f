"""An edge SAM goes the whole way: base, adapters, QAT, and one file that computes in integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cxrseg.export.report import Report
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.segmenter import Segmenter
from cxrseg.trainer.fit.checkpoint import load
from cxrseg.trainer.fit.start import start_from
from cxrseg.trainer.networks.edge import EdgeSAM
from helpers.models.exported import products

Call = Callable[..., Any]
Export = Callable[..., Report]

PLAIN = """
model: conv_n
image_size: 96
augment:
  {geometry: 0, mirror: 0, crop: 0, gamma: 0, contrast: 0, noise: 0, blur: 0, occlusion: 0,
   invert: 0}
"""
BASE = "stage1: {epochs: 3, images_per_epoch: 480, batch_size: 8, lr: 0.004, decoder_lr: 0.004}\n"
FINE = """
adapters: {init_rank: 4, target_rank: 2}
calibration_images: 16
stage1: {epochs: 1, images_per_epoch: 96, batch_size: 8}
stage2: {epochs: 1, images_per_epoch: 96, batch_size: 8}
"""


def trained(call: Call, folder: Path, data: Path, recipe: str, *options: object) -> Path:
    folder.mkdir()
    (folder / "recipe.yaml").write_text(PLAIN + recipe)
    done = call("train", data, "-o", folder / "run", "--recipe", folder / "recipe.yaml", *options)
    assert done.code == 0, done.err[-2000:]
    return folder / "run/model.ckpt"


@pytest.fixture(scope="module")
def base(call: Call, phantom_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edge") / "base"
    return trained(call, folder, phantom_data, BASE, "--method", "full", "--stage", "1")


@pytest.fixture(scope="module")
def fine(call: Call, base: Path, phantom_data: Path, tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("edge") / "fine"
    return trained(call, folder, phantom_data, FINE, "--checkpoint", base)


@pytest.fixture(scope="module")
def integer(export: Export, fine: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return export(tmp_path_factory.mktemp("edge-int8") / "edge.onnx", fine)


def test_batch_norms_are_folded_before_adapters(base: Path, fine: Path) -> None:
    start, end = load(base), load(fine)
    assert isinstance(start.model, EdgeSAM) and not start.model.architecture.folded
    assert isinstance(end.model, EdgeSAM) and end.model.architecture.folded
    assert end.description.stage == 2 and end.description.metrics["val_dice"] > 0.9
    kernels = [name for name in end.description.ranks if name.endswith(".kernel")]
    assert kernels and sum(end.description.ranks.values()) == 2 * len(kernels)


@torch.no_grad()
def test_a_start_keeps_the_labels_that_it_knows(base: Path) -> None:
    start = load(base)
    x = torch.rand(2, 1, 96, 96)
    swapped = ("left_lung", "right_lung")
    model, images = start_from(base, replace(start.description, labels=swapped))
    assert images == 1440
    torch.testing.assert_close(model.eval()(x)[:, [1, 0]], start.model(x))
    more = ("left_lung_whole", *swapped)
    model, _ = start_from(base, replace(start.description, labels=more))
    tokens = [network.mask_decoder.mask_tokens.weight for network in (model, start.model)]
    torch.testing.assert_close(tokens[0][[2, 1]], tokens[1])


def test_a_folded_start_gives_no_batch_norms_back(base: Path, fine: Path) -> None:
    with pytest.raises(CxrsegError, match="without batch norms; give a conv_n, or another"):
        start_from(fine, load(base).description)


def test_every_layer_runs_in_integers(integer: Report) -> None:
    coverage = integer.proof.coverage
    assert coverage.fallen_back == ()
    assert set(coverage.executed) == set(products(integer))
    kinds = set(coverage.executed.values())
    assert kinds == {"QLinearConv", "QGemm"}
    assert not {"Conv", "FusedConv", "ConvTranspose", "Gemm"} & set(coverage.operators)
    # Two residual blocks of the encoder, two of the decoder but for the last sum, and both joins.
    assert coverage.operators["QLinearAdd"] == 5


def test_masks_are_those_of_training(integer: Report) -> None:
    for name, agreement in integer.proof.agreements.items():
        assert agreement.mean > 0.99, name


def test_the_runtime_takes_the_file(integer: Report, phantom_data: Path) -> None:
    found = Segmenter(integer.path).segment(next((phantom_data / "val/images").iterdir()))
    assert set(np.unique(found.mask)) == {0, 1, 2}
