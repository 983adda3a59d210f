"""Layers of both files in pairs, and the whole command on the nano model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from cxrseg.benchmarks.quantization.layers import LayerPair, pair_layers
from cxrseg.benchmarks.quantization.noise import LOGITS, output_noise
from cxrseg.runtime.inference.loading import load_model
from cxrseg.trainer.fit.checkpoint import load
from cxrseg.trainer.networks.layers import effective

Bench = Callable[..., Any]


@pytest.fixture
def pairs(exports: Path) -> dict[str, LayerPair]:
    exact, integer = (ir.load(exports / f"{name}.onnx") for name in ("fp32", "int8"))
    return {pair.name: pair for pair in pair_layers(exact, integer, exports / "int8.onnx")}


def test_weights_are_those_of_the_network(
    pairs: dict[str, LayerPair], exports: Path, fine_run: Path
) -> None:
    network = load(fine_run / "model.ckpt").model
    precision = load_model(exports / "int8.onnx", "cpu").card.precision
    integer = [name for name, kind in precision.items() if kind == "int8"]
    assert len(pairs) >= len(integer) - 4
    for name in (
        "image_encoder.blocks.1.mlp.lin1",
        "image_encoder.blocks.1.attn.proj",
        "mask_decoder.transformer.final_attn_token_to_image.out_proj",
    ):
        expected = effective(network.get_submodule(name))[0].detach().numpy()
        weights = pairs[name].weights
        assert weights is not None
        np.testing.assert_allclose(weights.exact, expected, atol=1e-6)


def test_errors_are_within_half_a_step_of_seven_bits(pairs: dict[str, LayerPair]) -> None:
    for name, pair in pairs.items():
        if pair.weights is None:
            assert ".attn.matmul." in name
            continue
        step = pair.weights.step[:, None]
        assert np.abs((pair.weights.rounded - pair.weights.exact) / step).max() <= 0.501, name
        assert np.abs(np.rint(pair.weights.rounded / step)).max() <= 63


def test_both_products_of_each_attention_are_paired(pairs: dict[str, LayerPair]) -> None:
    products = {name.rpartition("image_encoder.blocks.")[2] for name in pairs if ".matmul." in name}
    assert products == {f"{n}.attn.matmul.{kind}" for n in (0, 1) for kind in ("scores", "mix")}


def test_a_network_against_itself_has_no_noise(pairs: dict[str, LayerPair], exports: Path) -> None:
    first, second = (ir.load(exports / "fp32.onnx") for _ in range(2))
    same = [LayerPair(p.name, (p.outputs[0], p.outputs[0])) for p in pairs.values()]
    image = np.random.default_rng(0).random((1, 1, 96, 96), dtype=np.float32)
    rows = output_noise(first, second, same, [image], 1)
    assert len(rows) == len(pairs) + 1
    assert {row.noise for row in rows} == {0.0}


def test_it_is_rounding_alone(
    bench: Bench, exports: Path, phantom_csv: Path, tmp_path: Path
) -> None:
    output = tmp_path / "error.json"
    files = (exports / "int8.onnx", exports / "fp32.onnx")
    done = bench("quantization-error", *files, "--images", phantom_csv, "-o", output)
    assert done.code == 0, done.err
    assert "rounding alone explains them" in done.out and "| logits" in done.out
    record = json.loads(output.read_text())
    assert record["command"].endswith("quantization-error int8.onnx fp32.onnx --images pairs.csv")
    data = record["data"]
    assert data["reference"]["same_checkpoint"] is True
    weights = data["weights"]
    assert weights["rounding_alone"] and not weights["exact"]
    assert weights["in_steps"]["sd"] == pytest.approx(1 / np.sqrt(12), rel=0.05)
    assert weights["distances"]["steps_uniform"] < weights["distances"]["steps_normal"]
    assert weights["correlation"] > 0.99
    assert data["outputs"][-1]["name"] == LOGITS
    assert all(row["sqnr"] > 0 for row in data["outputs"])
    assert data["dataset"]["images"] == 4
    assert [plot["name"] for plot in record["plots"]] == ["weights", "outputs"]


def test_checkpoint_gives_the_same_as_its_export(
    bench: Bench, exports: Path, fine_run: Path, tmp_path: Path
) -> None:
    records = []
    for name, reference in (("a", exports / "fp32.onnx"), ("b", fine_run / "model.ckpt")):
        output = tmp_path / f"{name}.json"
        done = bench("quantization-error", exports / "int8.onnx", reference, "-o", output)
        assert done.code == 0, done.err
        records.append(json.loads(output.read_text())["data"])
    first, second = records
    assert first["weights"]["errors"] == pytest.approx(second["weights"]["errors"])
    assert first["outputs"][-1]["sqnr"] == pytest.approx(second["outputs"][-1]["sqnr"])
    assert first["dataset"] == second["dataset"] == {"synthetic": 8}


def test_weights_of_another_training_are_told(bench: Bench, exports: Path, fine_run: Path) -> None:
    done = bench("quantization-error", exports / "int8.onnx", fine_run / "stage1.ckpt")
    assert done.code == 0, done.err
    assert "differ by training too" in done.out
    assert "The reference comes from another checkpoint" in done.out


def test_what_does_not_belong_together(
    bench: Bench, exports: Path, model: Path, tmp_path: Path
) -> None:
    for args, words in (
        ((model, exports / "fp32.onnx"), "has no INT8 layer"),
        ((exports / "int8.onnx", model), "of another network"),
        ((exports / "int8.onnx", tmp_path / "none.ckpt"), "no such file"),
    ):
        done = bench("quantization-error", *args)
        assert done.code == 1 and words in done.err, done.err
