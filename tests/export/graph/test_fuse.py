"""From the trained network to the one that is shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cxrseg.export.graph.fuse import fused
from cxrseg.trainer.adapt.layer_table import layer_table
from cxrseg.trainer.adapt.quantization import unquantize
from cxrseg.trainer.adapt.quantizers import QuantizedWeight
from cxrseg.trainer.fit.checkpoint import load


class TestMerge:
    @torch.no_grad()
    def test_shipped_network_equals_the_trained_one(
        self, fine_run: Path, batch: NDArray[np.float32]
    ) -> None:
        model = load(fine_run / "model.ckpt").model
        image = torch.from_numpy(batch)
        before = model(image)
        layers = layer_table(model)
        shipped = fused(model, layers, integer=True)
        torch.testing.assert_close(
            fused(model, layers, integer=False)(image), _float(model, image), rtol=1e-4, atol=1e-3
        )
        agree = ((shipped(image) > 0) == (before > 0)).float().mean()
        assert agree > 0.99
        assert not [n for n, _ in shipped.named_modules() if "lora" in n]
        torch.testing.assert_close(model(image), before, rtol=0, atol=0, msg="model was changed")

    def test_quantizers_stay(self, fine_run: Path) -> None:
        model = load(fine_run / "model.ckpt").model
        count = sum(isinstance(m, QuantizedWeight) for m in model.modules())
        split = 2 * model.architecture.depth  # one qkv becomes three layers
        layers = layer_table(model)
        shipped = fused(model, layers, integer=True)
        assert sum(isinstance(m, QuantizedWeight) for m in shipped.modules()) == count + split
        assert not [
            m
            for m in fused(model, layers, integer=False).modules()
            if isinstance(m, QuantizedWeight)
        ]


def _float(model: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    import copy

    twin = copy.deepcopy(model)
    unquantize(twin)  # type: ignore[arg-type]
    return torch.as_tensor(twin(image))
