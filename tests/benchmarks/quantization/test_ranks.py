from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cxrseg.benchmarks.quantization.ranks import place_of, read_history
from cxrseg.runtime.core.errors import CxrsegError
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
    history = data["history"]
    assert history[-1]["total"] == sum(found.values()) < history[0]["total"]
    assert [plot["name"] for plot in record["plots"]] == ["heatmap", "budget"]
    for name in ("heatmap", "budget"):
        assert (tmp_path / f"ranks-{name}.png").is_file()
    assert f"| block 1 | {found[1, 'q']} |" in re.sub(" +", " ", done.out)


def test_checkpoint_alone_has_no_history(bench: Bench, fine_run: Path, tmp_path: Path) -> None:
    done = bench("ranks", fine_run / "stage1.ckpt", "-o", tmp_path / "ranks.json")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "ranks.json").read_text())["data"]["history"] == []
    assert not (tmp_path / "ranks-budget.png").exists()


def test_model_without_adapters(bench: Bench, base_run: Path) -> None:
    done = bench("ranks", base_run)
    assert done.code == 1
    assert "has no adapters (method full)" in done.err and "--method adalora" in done.err


def write_log(path: Path, rows: list[tuple[int, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["loss", "rank/total", "step"])
        for step, rank in rows:
            writer.writerow(["", rank, step])


def test_logs_of_a_resumed_run(tmp_path: Path) -> None:
    """The first part was killed at step 25 and lost what it did after its checkpoint at 20."""
    write_log(tmp_path / "stage1/metrics.csv", [(10, 9.0), (15, ""), (20, 8.0), (25, 7.0)])
    write_log(tmp_path / "stage1/from_step_20/metrics.csv", [(25, 6.0), (100, 5.0)])
    write_log(tmp_path / "stage1/from_step_100/metrics.csv", [(110, 4.0)])
    found = read_history(tmp_path)
    assert [(each.step, each.total) for each in found] == [
        (10, 9),
        (20, 8),
        (25, 6),
        (100, 5),
        (110, 4),
    ]


def test_runs_without_a_log(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []
    (tmp_path / "stage1").mkdir()
    (tmp_path / "stage1/metrics.csv").write_text("epoch,step\n0,1\n")
    assert read_history(tmp_path) == []
    write_log(tmp_path / "stage1/metrics.csv", [(10, "many")])
    with pytest.raises(CxrsegError, match=r"metrics\.csv: is no log"):
        read_history(tmp_path)
