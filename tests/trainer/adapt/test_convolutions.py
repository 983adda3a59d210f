"""Kernels are adapted, listed and rounded as Linears are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cxrseg.trainer.adapt.adapters import (
    adapted_layers,
    add_adapters,
    merge_adapters,
    ranks,
)
from cxrseg.trainer.adapt.layer_table import layer_table
from cxrseg.trainer.adapt.quantization import calibrate, quantize, set_mode, unquantize
from cxrseg.trainer.adapt.settings import AdapterConfig, QuantizationConfig
from cxrseg.trainer.networks.edge import EDGE, EdgeSAM

CONFIG = AdapterConfig(init_rank=4, target_rank=2, warmup=0.1, final=0.3, interval=1)


@pytest.fixture
def edge() -> EdgeSAM:
    torch.manual_seed(7)
    network = EdgeSAM(EDGE["conv_n"], 64, ("right_lung", "left_lung"))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("norm.weight"):
                nn.init.uniform_(parameter, 0.5, 1.5)
        for _ in range(10):
            network(torch.rand(4, 1, 64, 64))
    network.eval().fold()
    return network


@torch.no_grad()
def test_adapters_of_kernels_begin_at_nothing_and_merge_exactly(
    edge: EdgeSAM, images: Tensor
) -> None:
    plain, names = edge(images), list(edge.state_dict())
    add_adapters(edge, CONFIG, 20)
    torch.testing.assert_close(edge(images), plain, rtol=1e-5, atol=1e-5)
    for layer in adapted_layers(edge).values():
        nn.init.normal_(layer.lora_E["default"], std=3.0)
    adapted = edge(images)
    assert (adapted - plain).abs().max() > 1e-3, "the adapters must matter"
    merge_adapters(edge)
    assert list(edge.state_dict()) == names
    torch.testing.assert_close(edge(images), adapted, rtol=1e-5, atol=1e-5)


def test_kernels_share_one_budget(edge: EdgeSAM, images: Tensor) -> None:
    allocation = add_adapters(edge, CONFIG, 20)
    trained = [p for p in edge.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-2, weight_decay=0.0)
    target = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(2))
    for step in range(1, 21):
        optimizer.zero_grad()
        (edge(images) - target).square().mean().backward()
        optimizer.step()
        allocation.step(step)
    found = ranks(edge)
    assert set(found) == {
        f"image_encoder.{name}.kernel"
        for name in (
            *(f"stage{side}.down" for side in (4, 8, 16)),
            *(f"stage{side}.blocks.0.conv{i}" for side in (8, 16) for i in (1, 2)),
            "neck",
        )
    }
    assert sum(found.values()) == CONFIG.target_rank * len(found)
    assert len(set(found.values())) > 1, "the budget must not be shared out evenly"


@torch.no_grad()
def test_the_table_lists_convolutions_whatever_is_inside(edge: EdgeSAM) -> None:
    def facts() -> dict[str, tuple[str, tuple[int, ...]]]:
        return {row.name: (row.kind, row.shape) for row in layer_table(edge)}

    before = facts()
    assert before["image_encoder.stem"] == ("conv", (4, 1, 3, 3))
    assert before["mask_decoder.up8"] == ("conv", (8, 32, 1, 1))
    assert before["mask_decoder.hypernetwork.0"] == ("linear", (32, 32))
    assert not any("iou_head" in name or "prompt_encoder" in name for name in before)
    add_adapters(edge, CONFIG, 20)
    assert facts() == before
    quantize(edge, QuantizationConfig())
    assert facts() == before


@torch.no_grad()
def test_rounding_comes_and_goes(edge: EdgeSAM, images: Tensor) -> None:
    plain = edge(images)
    quantize(edge, QuantizationConfig())
    torch.testing.assert_close(edge(images), plain)
    calibrate(edge, [images])
    rounded = edge(images)
    assert 0 < (rounded - plain).abs().mean() < 0.2 * plain.abs().mean()
    operands = {row.name: set(row.operands) for row in layer_table(edge)}
    assert operands["image_encoder.stage8.blocks.0.conv1"] == {"input"}
    assert operands["image_encoder.stage8.blocks.0.conv2"] == {"input", "output"}
    set_mode(edge, "bypass")
    torch.testing.assert_close(edge(images), plain)
    unquantize(edge)
    torch.testing.assert_close(edge(images), plain)
