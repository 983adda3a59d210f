"""The paper's arithmetic, and the bytes of real exports."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from cxrseg.benchmarks.quantization.accounting import (
    PAPER_RATIO,
    our_trained,
    paper_accounting,
    paper_trained,
)
from cxrseg.benchmarks.quantization.exports import measure_files
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.trainer.fit.checkpoint import Description, load
from cxrseg.trainer.networks.sam import ARCHITECTURES

Bench = Callable[..., Any]


def test_the_papers_count() -> None:
    count = paper_accounting()
    assert count.ratio == pytest.approx(PAPER_RATIO, abs=0.005)
    assert count.linear == pytest.approx(67.6e6, rel=0.002)
    assert count.qkv == pytest.approx(21.3e6, rel=0.002)
    assert count.adapters == pytest.approx(2.7e6, rel=0.02)
    assert count.float_bytes == pytest.approx(366e6, rel=0.002)
    assert count.quantized_bytes == pytest.approx(163e6, rel=0.003)


def test_the_papers_trained_parameters() -> None:
    full, decoder, start, end = paper_trained()
    assert full.trained == 93_735_472 and full.fewer == 1
    assert decoder.trained == 4_058_340
    # Rank 48: three adapters of 48 * (768 + 1 + 768) in each of twelve blocks.
    assert start.trained - end.trained == 3 * 12 * (48 - 32) * 1537
    assert start.fewer < end.fewer < decoder.fewer
    assert decoder.fewer == pytest.approx(decoder.paper, rel=0.03)
    assert end.fewer == pytest.approx(end.paper, rel=0.04)


def test_our_trained_parameters() -> None:
    """Counted by the trainer's own functions, which the training itself uses."""
    labels = ("right_lung", "left_lung")
    description = Description(ARCHITECTURES["vit_b"], labels, Preprocessing(1024))
    full, decoder, start, end = our_trained(description)
    assert full.full == 93_735_472 > full.trained
    width, hidden, rank = 768, 4 * 768, 12
    per_block = 4 * (2 * width + 1) + 2 * (width + hidden + 1)
    assert start.trained - decoder.trained == 12 * rank * per_block
    assert end.trained - decoder.trained == 12 * 8 * per_block
    assert start.fewer > 16


def test_trained_parameters_are_those_of_a_training(fine_run: Path) -> None:
    loaded = load(fine_run / "stage1.ckpt")
    *_, start, _ = our_trained(loaded.description)
    factors = ("lora_A", "lora_B", "lora_E", "mask_decoder", "prompt_encoder")
    unused = {id(p) for part in loaded.model.unused_modules() for p in part.parameters()}
    trained = sum(
        p.numel()
        for name, p in loaded.model.named_parameters()
        if any(each in name for each in factors) and id(p) not in unused
    )
    assert start.trained == trained


def test_files_are_counted_as_they_are(bench: Bench, exports: Path, fine_run: Path) -> None:
    files = (exports / "int8.onnx", exports / "fp32.onnx")
    measured = measure_files(*files, load(fine_run / "model.ckpt").sha256)
    assert (measured.int8_bytes, measured.fp32_bytes) == tuple(f.stat().st_size for f in files)
    assert (measured.model, measured.image_size) == ("vit_n", 96)
    with pytest.raises(CxrsegError, match="not exported from the checkpoint"):
        measure_files(*files, load(fine_run / "stage1.ckpt").sha256)
    done = bench("compression", fine_run / "model.ckpt", "--files", *files)
    assert done.code == 1
    assert f"| {measured.ratio:.2f} |" in re.sub(" +", " ", done.out)


def test_a_ratio_below_the_papers_fails(bench: Bench, tmp_path: Path) -> None:
    """The nano model is mostly graph, not weights."""
    output, files = tmp_path / "compression.json", tmp_path / "files"
    size = ("--model", "vit_n", "--image-size", 64)
    done = bench("compression", *size, "--keep", files, "--stock", "-o", output)
    assert done.code == 1
    assert "2.24 times" in done.out
    assert "below the paper's 2.24" in done.out
    data = json.loads(output.read_text())["data"]
    measured = data["measured"]
    assert measured["ratio"] == measured["fp32_bytes"] / measured["int8_bytes"] < PAPER_RATIO
    assert data["paper"]["ratio"] == pytest.approx(PAPER_RATIO, abs=0.005)
    assert [method["fewer"] for method in data["trained"]["paper"]] == [
        method.fewer for method in paper_trained()
    ]
    for precision in ("fp32", "int8"):
        assert (files / f"{precision}.onnx").stat().st_size == measured[f"{precision}_bytes"]
    image = np.random.default_rng(0).random((1, 1, 64, 64), dtype=np.float32)
    ours, stock = (
        onnxruntime.InferenceSession(files / f"{name}.onnx").run(None, {"image": image})[0]
        for name in ("fp32", "stock")
    )
    assert np.abs(stock).max() > 1e-3
    np.testing.assert_allclose(ours, stock, atol=1e-4 * np.abs(stock).max())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--stock",), "--stock needs --keep"),
        (("--image-size", 100), "not a multiple of 16"),
        (("--files", "a.onnx", "b.onnx"), "--files are exports of a CHECKPOINT"),
    ],
)
def test_wrong_usage(bench: Bench, args: tuple[str | int, ...], words: str) -> None:
    done = bench("compression", "--model", "vit_n", *args)
    assert done.code == 2
    assert words in done.err


def test_float_checkpoints_are_refused(bench: Bench, base_run: Path) -> None:
    done = bench("compression", base_run / "model.ckpt")
    assert done.code == 1
    assert "not trained for INT8" in done.err
