"""``cxrseg-bench methods``: ways to train, compared on phantoms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cxrseg.benchmarks.accuracy.metrics import dice
from cxrseg.benchmarks.harness.parts import Outcome, digest
from cxrseg.benchmarks.methods.lines import lines_of
from cxrseg.benchmarks.methods.options import Options, trials_of
from cxrseg.benchmarks.methods.rows import ROWS, Plan
from cxrseg.benchmarks.methods.tables import tables
from cxrseg.runtime.segmenter import Segmenter
from cxrseg.trainer.fit.checkpoint import load

SIZE = 96

RECIPE = f"""
image_size: {SIZE}
data: {{val_images: 4}}
calibration_images: 8
sensitivity_images: 2
augment:
  {{geometry: 0, mirror: 0, crop: 0, gamma: 0, contrast: 0, noise: 0, blur: 0, occlusion: 0,
   invert: 0}}
quantization: {{min_sqnr: -100, max_dice_loss: 1}}
stage1: {{epochs: 1, images_per_epoch: 96, batch_size: 8, lr: 0.001, decoder_lr: 0.001}}
stage2: {{epochs: 1, images_per_epoch: 32, batch_size: 8, lr: 0.0003, decoder_lr: 0.0003}}
"""

SAM = f"{RECIPE}\nmodel: vit_n\n"

UNET = RECIPE.replace("images_per_epoch: 96", "images_per_epoch: 480").replace(
    "lr: 0.001", "lr: 0.01"
)
UNET += "\nmodel: unet\nunet: {channels: [16, 16, 32, 32, 64]}\n"

BROKEN = f"{SAM}\naccelerator: abacus\n"

COMPARED = "full,lora,adalora-ptq,adalora-qat,unet-size"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with recipes."""
    home = tmp_path_factory.mktemp("methods")
    for name, text in {"sam": SAM, "unet": UNET, "broken": BROKEN}.items():
        (home / f"{name}.yaml").write_text(text)
    return home


@pytest.fixture(scope="module")
def common(home: Path, base_run: Path, phantom_csv: Path) -> list[object]:
    """Return the options of every comparison: where it starts, how it trains, what it tests."""
    start = ("--checkpoint", base_run / "model.ckpt", "--recipe", home / "sam.yaml")
    return [*start, "--test", phantom_csv]


@pytest.fixture(scope="module")
def own(common: list[object], home: Path) -> list[object]:
    """Return the options of the comparison in the folder of the recipes."""
    unet = ("--row-recipe", "unet-size", home / "unet.yaml")
    return [*common, *unet, "-o", home / "out", "--runs", 3]


@pytest.fixture(scope="module")
def compared(call: Any, home: Path, phantom_data: Path, own: list[object]) -> Any:
    """Return the outcome of a comparison in which one row fails."""
    broken = ("--row-recipe", "full", home / "broken.yaml")
    return call("bench", "methods", phantom_data, "--rows", COMPARED, *broken, *own)


@pytest.fixture(scope="module")
def record(compared: Any, home: Path) -> dict[str, Any]:
    assert "written: " in compared.out, compared.err
    found: dict[str, Any] = json.loads((home / "out/methods.json").read_text())
    return found


def line(record: dict[str, Any], row: str, precision: str) -> dict[str, Any]:
    rows = record["data"]["rows"]
    (found,) = [x for x in rows if (x["row"], x["precision"]) == (row, precision)]
    assert isinstance(found, dict)
    return found


def test_a_row_that_fails_is_reported_and_the_others_go_on(
    compared: Any, record: dict[str, Any]
) -> None:
    assert compared.code == 1
    parts = {part["name"]: part for part in record["data"]["parts"]}
    failed = [name for name, part in parts.items() if part["outcome"] == "failed"]
    assert failed == ["seed0/full: train"]
    assert "abacus" in parts["seed0/full: train"]["why"]
    assert parts["seed0/full: export fp32"]["outcome"] == "skipped"
    assert len(compared.errors) == 1 and "abacus" in compared.errors[0]
    assert [(x["row"], x["precision"]) for x in record["data"]["rows"]] == [
        ("lora", "fp32"),
        ("adalora-ptq", "int8"),
        ("adalora-qat", "int8"),
        ("unet-size", "fp32"),
        ("unet-size", "int8"),
    ]
    assert "AdaLoRA-QAT, INT8" in compared.out and "random weights" in compared.out


def test_rows_tell_start_and_budget(record: dict[str, Any], base_run: Path) -> None:
    lora, ptq, qat = (
        line(record, *key)
        for key in (("lora", "fp32"), ("adalora-ptq", "int8"), ("adalora-qat", "int8"))
    )
    assert (lora["images"], ptq["images"], qat["images"]) == ([96], [96, 0], [96, 32])
    start = digest(base_run / "model.ckpt")
    assert {(x["start"], x["start_sha256"]) for x in (lora, ptq, qat)} == {("model.ckpt", start)}
    assert ptq["trainable"] == qat["trainable"] > lora["trainable"]
    unet = line(record, "unet-size", "int8")
    assert (unet["start"], unet["images"]) == (None, [480])
    assert all(x["seconds"] > 0 for x in record["data"]["rows"])
    assert qat["relative_latency"] == 1 and unet["latency_ms"]["median"] > 0


def test_lora_is_adapters_that_keep_their_rank(record: dict[str, Any], home: Path) -> None:
    found = load(home / "out/seed0/lora/model.ckpt").description
    assert found.adapters is not None and set(found.ranks.values()) == {found.adapters.target_rank}
    pruned = load(home / "out/seed0/adalora/model.ckpt").description.ranks
    assert sum(pruned.values()) == sum(found.ranks.values())


@pytest.mark.parametrize(
    ("row", "precision"), [("unet-size", "fp32"), ("unet-size", "int8"), ("adalora-qat", "int8")]
)
def test_files_keep_the_contract_and_give_the_figures(
    record: dict[str, Any], home: Path, phantom_data: Path, row: str, precision: str
) -> None:
    own = line(record, row, precision)
    path = home / "out/seed0" / row / own["file"]
    assert path.stat().st_size == own["size_bytes"]
    segmenter = Segmenter(path, "cpu", 1)
    assert segmenter.model.card.preprocessing.size == SIZE
    images = sorted((phantom_data / "test/images").iterdir())
    found = [
        dice(
            segmenter.segment(image).mask > 0,
            cv2.imread(str(phantom_data / "test/masks" / image.name), cv2.IMREAD_GRAYSCALE) > 0,
        )
        for image in images
    ]
    assert own["dice"]["test, fields"] == pytest.approx(np.mean(found), abs=1e-5)
    figures = own["accuracy"]["test, fields"]["all"]
    assert figures["images"] == len(images)
    assert figures["dice"]["mean"] == own["dice"]["test, fields"] > 0.7, "it must have learned"


def test_sams_are_also_prompted_with_a_box(record: dict[str, Any]) -> None:
    qat = line(record, "adalora-qat", "int8")
    assert qat["box"]["test, fields"]["all"]["dice"]["mean"] > 0.5
    assert line(record, "unet-size", "fp32")["box"] is None


def test_the_same_command_does_what_is_missing_alone(
    record: dict[str, Any], bench: Any, home: Path, phantom_data: Path, own: list[object]
) -> None:
    folder = home / "out/seed0/adalora-qat"
    kept = [folder / "model.ckpt", *folder.glob("*.json"), *folder.glob("*.onnx")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    result = bench("methods", phantom_data, "--rows", "full,adalora-qat", *own)
    assert result.code == 0, result.err[-2000:]
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    again = json.loads((home / "out/methods.json").read_text())
    assert [x["row"] for x in again["data"]["rows"]] == ["full", "adalora-qat"]
    assert {part["outcome"] for part in again["data"]["parts"]} == {"done"}
    same = line(record, "adalora-qat", "int8")
    timed = line(again, "adalora-qat", "int8")
    assert timed["accuracy"] == same["accuracy"]
    assert timed["relative_latency"] == 1 and timed["latency_ms"]["median"] > 0
    assert [plot["name"] for plot in again["plots"]] == ["dice-latency"]
    assert cv2.imread(str(home / "out/methods-dice-latency.png")) is not None
    assert str(home) not in (home / "out/methods.json").read_text(), "no place on this machine"


def test_a_finished_row_of_another_recipe_is_kept(
    record: dict[str, Any], bench: Any, home: Path, phantom_data: Path, own: list[object]
) -> None:
    (home / "longer.yaml").write_text(SAM.replace("images_per_epoch: 96", "images_per_epoch: 480"))
    changed = ("--row-recipe", "lora", home / "longer.yaml")
    result = bench("methods", phantom_data, "--rows", "lora", *own, *changed)
    assert result.code == 1 and "images_per_epoch" in result.err and "lora" in result.err


def test_seeds_are_averaged_and_their_range_told(
    bench: Any, tmp_path: Path, phantom_data: Path, common: list[object]
) -> None:
    args = ["--rows", "decoder", "--seeds", "0,3", "--no-box", "--limit", 2, "--runs", 2]
    result = bench("methods", phantom_data, "-o", tmp_path / "out", *common, *args)
    assert result.code == 0, result.err[-2000:]
    (found,) = json.loads((tmp_path / "out/methods.json").read_text())["data"]["rows"]
    each = found["dice_per_seed"]["test, fields"]
    assert found["seeds"] == [0, 3] and len(set(found["sha256"])) == 2 and found["box"] is None
    assert found["accuracy"]["test, fields"]["all"]["images"] == 2
    assert found["dice"]["test, fields"] == pytest.approx(np.mean(each), abs=2e-6)
    assert f"{min(each):.4f} to {max(each):.4f}" in result.out


@pytest.mark.parametrize(
    "bad",
    [
        ["--rows", "qlora"],
        ["--seeds", "0,0"],
        ["--seeds", "one"],
        ["--start", "qlora", "x.ckpt"],
    ],
)
def test_wrong_usage(bench: Any, tmp_path: Path, phantom_data: Path, bad: list[str]) -> None:
    own = ["-o", tmp_path / "out", "--test", tmp_path / "x.csv"]
    assert bench("methods", phantom_data, *own, *bad).code == 2
    assert not (tmp_path / "out").exists()


def test_what_cannot_work_is_said_before_any_training(
    bench: Any, tmp_path: Path, home: Path, phantom_data: Path, phantom_csv: Path
) -> None:
    out = ["-o", tmp_path / "out", "--recipe", home / "sam.yaml", "--test", phantom_csv]
    result = bench("methods", phantom_data, *out)
    assert result.code == 1 and "--checkpoint" in result.err
    result = bench("methods", phantom_data, *out, "--checkpoint", tmp_path / "none.ckpt")
    assert result.code == 1 and "none.ckpt" in result.err
    (tmp_path / "other.yaml").write_text(UNET.replace(f"image_size: {SIZE}", "image_size: 64"))
    other = ["--row-recipe", "unet-size", tmp_path / "other.yaml"]
    result = bench("methods", phantom_data, *out, "--rows", "unet-size,unet-latency", *other)
    assert result.code == 1 and "image_size" in result.err
    empty = tmp_path / "empty.csv"
    empty.write_text("image,mask,split\n")
    result = bench("methods", phantom_data, *out[:-1], empty, "--rows", "unet-size")
    assert result.code == 1 and "empty.csv" in result.err
    assert not (tmp_path / "out").exists()


def test_a_failed_box_costs_no_line(
    record: dict[str, Any], home: Path, phantom_data: Path, phantom_csv: Path, base_run: Path
) -> None:
    options = Options(
        data=(phantom_data,),
        folder=home / "out",
        test=phantom_csv,
        rows="lora",
        checkpoint=base_run / "model.ckpt",
        recipe=home / "sam.yaml",
    )
    outcomes = {part["name"]: Outcome(**part) for part in record["data"]["parts"]}
    outcomes["seed0/lora: box fields"] = Outcome("seed0/lora: box fields", "failed", "why")
    (lora,) = lines_of(trials_of(options), outcomes, home / "out/latency.json")
    assert lora["box"] is None and [table.rows for table in tables([lora])]


def test_a_rows_own_recipe_may_leave_the_channels(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("stage1: {lr: 0.5}\n")
    plan = Plan((tmp_path,), tmp_path, None, {"unet-size": own}, {}, None)
    recipe = plan.recipe_of(ROWS["unet-size"])
    assert (recipe.stage1.lr, recipe.unet.channels) == (0.5, (40, 80, 160, 320, 640))


def test_rows_are_recipes(tmp_path: Path) -> None:
    plan = Plan((tmp_path,), tmp_path, None, {}, {}, tmp_path / "base.ckpt")
    recipes = {name: plan.recipe_of(row) for name, row in ROWS.items()}
    assert recipes["adalora-ptq"].stage2.epochs == 0 < recipes["adalora-qat"].stage2.epochs
    assert recipes["lora"].adapters.init_rank == recipes["lora"].adapters.target_rank
    assert recipes["unet-size"].model == "unet"
    assert recipes["unet-size"].unet.channels == (40, 80, 160, 320, 640)
