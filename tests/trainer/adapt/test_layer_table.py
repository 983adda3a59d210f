"""The one table of layers: what it lists, and what it says of each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cxrseg.trainer.adapt.adapters import add_adapters
from cxrseg.trainer.adapt.layer_table import Layer, layer_table
from cxrseg.trainer.adapt.quantization import calibrate, make_float, quantize
from cxrseg.trainer.adapt.settings import AdapterConfig, QuantizationConfig
from cxrseg.trainer.networks.lungsam import LungSAM

Make = Callable[..., LungSAM]


def rows(model: LungSAM) -> dict[str, Layer]:
    return {layer.name: layer for layer in layer_table(model)}


def facts(model: LungSAM) -> list[tuple[str, str, tuple[int, ...], bool]]:
    return [(row.name, row.kind, row.shape, row.constant) for row in layer_table(model)]


def test_kinds_and_shapes(nano: Make) -> None:
    table = rows(nano())
    wanted = {
        "image_encoder.patch_embed": ("linear", (32, 256)),
        "image_encoder.blocks.1.attn.qkv": ("linear", (96, 32)),
        "image_encoder.neck.0": ("linear", (32, 32)),
        "image_encoder.neck.2": ("conv", (32, 32, 3, 3)),
        "mask_decoder.output_upscaling.0": ("linear", (32, 32)),
        "image_encoder.blocks.0.attn.matmul": ("attention", ()),
    }
    assert {name: (table[name].kind, table[name].shape) for name in wanted} == wanted
    assert list(table)[-2:] == [f"image_encoder.blocks.{i}.attn.matmul" for i in (0, 1)]


def test_the_prompt_alone_decides_the_first_self_attention(nano: Make) -> None:
    constant = [row.name for row in layer_table(nano()) if row.constant]
    layer = "mask_decoder.transformer.layers.0.self_attn"
    assert constant == [f"{layer}.{name}_proj" for name in ("q", "k", "v", "out")]


def test_facts_outlast_adapters_and_quantizers(nano: Make) -> None:
    model = nano()
    before = facts(model)
    add_adapters(model, AdapterConfig(), 10)
    assert facts(model) == before
    quantize(model, QuantizationConfig())
    assert facts(model) == before


@torch.no_grad()
def test_operands_and_scales_of_what_is_quantized(nano: Make, images: Tensor) -> None:
    model = nano()
    assert not any(row.quantized or row.operands or row.scales for row in layer_table(model))
    quantize(model, QuantizationConfig(keep_float=("*.neck.0", "*.blocks.0.attn.matmul")))
    calibrate(model, [images])
    table = rows(model)
    floating = {"image_encoder.neck.0", "image_encoder.blocks.0.attn.matmul"}
    assert {name for name, row in table.items() if not row.quantized} == floating
    neck, attention = (table[f"image_encoder.{n}"] for n in ("neck.2", "blocks.1.attn.matmul"))
    assert list(neck.operands) == ["input", "output"]
    assert neck.scales["weight"].shape == (32,)
    assert list(attention.scales) == ["query", "key", "probability", "value"]
    assert all(float(scale.max()) > 0 for row in table.values() for scale in row.scales.values())
    make_float(model, [neck, attention])
    assert {name for name, row in rows(model).items() if not row.quantized} == {
        *floating,
        neck.name,
        attention.name,
    }
