from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cxrseg.benchmarks.quantization.ranks import place_of
from cxrseg.trainer.fit.checkpoint import load

Bench = Callable[..., Any]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("image_encoder.blocks.0.attn.qkv.q", (0, "q")),
        ("image_encoder.blocks.11.attn.qkv.layer.v", (11, "v")),
        ("blocks.3.attn.proj", (3, "proj")),
        ("image_encoder.blocks.2.mlp.lin1.layer", (2, "lin1")),
        ("mask_decoder.transformer.layers.0.mlp.lin1", None),
    ],
)
def test_places(name: str, place: tuple[int, str] | None) -> None:
    assert place_of(name) == place


def test_record_of_a_run(bench: Bench, fine_run: Path, tmp_path: Path) -> None:
    output = tmp_path / "ranks.json"
    done = bench("ranks", fine_run, "-o", output)
    assert done.code == 0, done.err
    record = json.loads(output.read_text())
    data = record["data"]
    expected = load(fine_run / "model.ckpt").description.ranks
    found = {(adapter["block"], adapter["kind"]): adapter["rank"] for adapter in data["adapters"]}
    assert found == {place_of(name): rank for name, rank in expected.items()}
    assert len(found) == 12 and sum(found.values()) == 12 * data["settings"]["target_rank"]
    # Width 32: q has 32 inputs and outputs, lin1 32 inputs and 128 outputs.
    sizes = {(e["block"], e["kind"]): e["parameters"] for e in data["adapters"]}
    assert sizes[0, "q"] == 65 * found[0, "q"]
    assert sizes[1, "lin1"] == 161 * found[1, "lin1"]
    assert [plot["name"] for plot in record["plots"]] == ["heatmap"]
    assert (tmp_path / "ranks-heatmap.png").is_file()
    assert f"| block 1 | {found[1, 'q']} |" in re.sub(" +", " ", done.out)


def test_a_checkpoint_gives_the_same_as_its_run(bench: Bench, fine_run: Path) -> None:
    run, checkpoint, first = (
        bench("ranks", path)
        for path in (fine_run, fine_run / "model.ckpt", fine_run / "stage1.ckpt")
    )
    assert run.code == checkpoint.code == first.code == 0
    assert run.out == checkpoint.out
    # Stage 2 holds the ranks that stage 1 came to.
    assert first.out.splitlines()[1:] == run.out.splitlines()[1:]


def test_model_without_adapters(bench: Bench, base_run: Path) -> None:
    done = bench("ranks", base_run)
    assert done.code == 1
    assert "has no adapters (method full)" in done.err and "--method adalora" in done.err
