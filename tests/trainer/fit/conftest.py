"""A checkpoint with everything that one can hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cxrseg.trainer.adapt.adapters import adapted_layers, add_adapters
from cxrseg.trainer.adapt.quantization import calibrate, quantize
from cxrseg.trainer.fit.checkpoint import save
from cxrseg.trainer.networks.lungsam import LungSAM
from helpers.models.checkpoints import ADAPTERS, QUANTIZATION, describe

Make = Callable[..., LungSAM]


def adapt(model: LungSAM) -> None:
    add_adapters(model, ADAPTERS, 10)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            value = layer.lora_E["default"]
            value.copy_(5 * torch.randn(value.shape, generator=generator))


@pytest.fixture
def finished(nano: Make, images: Tensor, tmp_path: Path) -> tuple[Path, LungSAM]:
    """Return a checkpoint with adapters and quantizers, and the network in it."""
    model = nano()
    adapt(model)
    quantize(model, QUANTIZATION)
    calibrate(model, [images])
    description = describe(
        model,
        stage=2,
        method="adalora",
        adapters=ADAPTERS,
        quantization=QUANTIZATION,
        ranks={"a": 3},
        data={"clinic/fields/train": 7},
        metrics={"val_dice": 0.5},
        images=70,
        version="1.2",
    )
    path = tmp_path / "model.ckpt"
    save(model, description, path)
    return path, model
