"""``cxrseg-bench methods``: ways to train, compared on phantoms."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch

from cxrseg.benchmarks.accuracy.metrics import dice
from cxrseg.benchmarks.accuracy.scoring import score
from cxrseg.benchmarks.harness.legacy_samples import Case
from cxrseg.benchmarks.methods.methods_scores import (
    Prompted,
    box_around,
    over_seeds,
    prompted_scores,
)
from cxrseg.benchmarks.methods.methods_scores import (
    tests_of as list_tests,
)
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.segmenter import Segmenter
from cxrseg.trainer.fit.checkpoint import load
from cxrseg.trainer.recipe import DataRecipe

SIZE = 96

RECIPE = f"""
model: vit_n
image_size: {SIZE}
data: {{workers: 0, val_images: 4}}
calibration_images: 8
sensitivity_images: 2
augment:
  {{geometry: 0, mirror: 0, crop: 0, gamma: 0, contrast: 0, noise: 0, blur: 0, occlusion: 0,
   invert: 0}}
quantization: {{min_sqnr: -100, max_dice_loss: 1}}
stage1: {{epochs: 1, images_per_epoch: 96, batch_size: 8, lr: 0.001, decoder_lr: 0.001}}
stage2: {{epochs: 1, images_per_epoch: 32, batch_size: 8, lr: 0.0003, decoder_lr: 0.0003}}
"""

LONGER = RECIPE.replace("images_per_epoch: 96", "images_per_epoch: 480").replace(
    "lr: 0.001", "lr: 0.01"
)

BROKEN = f"{RECIPE}\naccelerator: abacus\n"

TINY = "16,16,32,32,64"
ROWS = "full,lora,adalora-ptq,adalora-qat,unet-size"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with recipes."""
    home = tmp_path_factory.mktemp("methods")
    for name, text in {"recipe": RECIPE, "longer": LONGER, "broken": BROKEN}.items():
        (home / f"{name}.yaml").write_text(text)
    return home


def options(home: Path, base: Path) -> list[object]:
    return [
        *("-o", home / "out", "--checkpoint", base / "model.ckpt", "--base-images", 1440),
        *("--recipe", home / "recipe.yaml", "--row-recipe", "unet-size", home / "longer.yaml"),
        *("--features", "unet-size", TINY, "--runs", 3),
    ]


@pytest.fixture(scope="module")
def compared(call: Any, home: Path, phantom_data: Path, base_run: Path) -> Any:
    """Return the outcome of a comparison in which one row fails."""
    broken = ("--row-recipe", "full", home / "broken.yaml")
    return call("bench", "methods", phantom_data, "--rows", ROWS, *broken, *options(home, base_run))


@pytest.fixture(scope="module")
def record(compared: Any, home: Path) -> dict[str, Any]:
    assert "written: " in compared.out
    found: dict[str, Any] = json.loads((home / "out/methods.json").read_text())
    return found


def line(record: dict[str, Any], row: str, precision: str) -> dict[str, Any]:
    (found,) = [x for x in record["rows"] if (x["row"], x["precision"]) == (row, precision)]
    assert isinstance(found, dict)
    return found


def test_a_row_that_fails_is_reported_and_the_others_go_on(
    compared: Any, record: dict[str, Any], home: Path
) -> None:
    assert compared.code == 1
    (failure,) = record["failures"]
    assert (failure["row"], failure["seed"]) == ("full", 0) and "abacus" in failure["cause"]
    assert len(compared.errors) == 1 and "full" in compared.errors[0]
    assert [(x["row"], x["precision"]) for x in record["rows"]] == [
        ("lora", "fp32"),
        ("adalora-ptq", "int8"),
        ("adalora-qat", "int8"),
        ("unet-size", "fp32"),
        ("unet-size", "int8"),
    ]
    page = (home / "out/methods.md").read_text()
    assert "## Failed" in page and "AdaLoRA-QAT, INT8" in page and "random weights" in page


def test_rows_tell_start_and_budget(record: dict[str, Any]) -> None:
    lora, ptq, qat = (
        line(record, *key)
        for key in (("lora", "fp32"), ("adalora-ptq", "int8"), ("adalora-qat", "int8"))
    )
    assert (lora["images"], ptq["images"], qat["images"]) == ([96], [96, 0], [96, 32])
    assert {x["start"] for x in (lora, ptq, qat)} == {"model.ckpt"}
    assert {x["images_before"] for x in (lora, ptq, qat)} == {1440}
    assert ptq["trainable"] == qat["trainable"] > lora["trainable"]
    unet = line(record, "unet-size", "int8")
    assert (unet["start"], unet["images_before"], unet["images"]) == (None, 0, [480])
    assert all(x["seconds"] > 0 for x in record["rows"])
    assert qat["relative_latency"] == 1


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
    assert own["dice"]["test, fields"] == pytest.approx(found, abs=1e-5)
    figures = own["accuracy"]["test, fields"]["all"]
    assert figures["dice"]["mean"] == pytest.approx(np.mean(found), abs=1e-5)
    assert figures["images"] == len(images)
    assert figures["dice"]["mean"] > 0.7, "it must have learned something"


def test_the_unet_is_quantized_by_onnxruntime(record: dict[str, Any], home: Path) -> None:
    folder = home / "out/seed0/unet-size"
    loaded = load(folder / "model.ckpt")
    network, description = loaded.model, loaded.description
    operators = {node.op_type for node in onnx.load(folder / "unet-size-int8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    image = torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = network(image).numpy()
    session = Segmenter(folder / "unet-size-fp32.onnx", "cpu", 1).model.session
    (given,) = session.run(None, {"image": image.numpy()})
    assert given.shape == (1, 2, SIZE // 4, SIZE // 4)
    np.testing.assert_allclose(given, wanted, atol=1e-3 * np.abs(wanted).max())
    assert description.images == 480
    fp32, int8 = (line(record, "unet-size", name)["size_bytes"] for name in ("fp32", "int8"))
    assert int8 < fp32


def test_sams_are_also_prompted_with_a_box(record: dict[str, Any]) -> None:
    qat = line(record, "adalora-qat", "int8")
    assert qat["box"]["test, fields"]["all"]["dice"]["mean"] > 0.5
    assert line(record, "unet-size", "fp32")["box"] is None


def test_figure_and_pages_are_written(record: dict[str, Any], home: Path) -> None:
    assert [each["name"] for each in record["figures"]] == ["dice-latency"]
    assert cv2.imread(str(home / "out/methods-dice-latency.png")) is not None
    assert "methods-dice-latency.svg" in (home / "out/methods.md").read_text()
    assert str(home) not in (home / "out/methods.json").read_text(), "no place on this machine"


def test_the_same_command_trains_what_is_missing_alone(
    record: dict[str, Any], bench: Any, home: Path, phantom_data: Path, base_run: Path
) -> None:
    folder = home / "out/seed0"
    kept = [folder / "adalora-qat/model.ckpt", *(folder / "adalora-qat").glob("*.json")]
    kept += (folder / "adalora-qat").glob("*.onnx")
    before = {path: path.stat().st_mtime_ns for path in kept}
    own = options(home, base_run)
    result = bench("methods", phantom_data, "--rows", "full,adalora-qat", *own)
    assert result.code == 0, result.err[-2000:]
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    again = json.loads((home / "out/methods.json").read_text())
    assert [x["row"] for x in again["rows"]] == ["full", "adalora-qat"] and not again["failures"]
    same = line(record, "adalora-qat", "int8")
    assert line(again, "adalora-qat", "int8")["accuracy"] == same["accuracy"]


def test_a_finished_row_of_another_recipe_is_kept(
    record: dict[str, Any], bench: Any, home: Path, phantom_data: Path, base_run: Path
) -> None:
    own = options(home, base_run)
    changed = ("--row-recipe", "lora", home / "longer.yaml")
    result = bench("methods", phantom_data, "--rows", "lora", *own, *changed)
    assert result.code == 1 and "images_per_epoch" in result.err and "lora" in result.err


def test_seeds_are_averaged_and_their_range_told(
    bench: Any, home: Path, tmp_path: Path, phantom_data: Path, base_run: Path
) -> None:
    own = ["--checkpoint", base_run / "model.ckpt", "--recipe", home / "recipe.yaml"]
    own += ["--rows", "decoder", "--seeds", "0,3", "--no-box", "--limit", 2, "--runs", 2]
    result = bench("methods", phantom_data, "-o", tmp_path / "out", *own)
    assert result.code == 0, result.err[-2000:]
    (found,) = json.loads((tmp_path / "out/methods.json").read_text())["rows"]
    each = found["dice_per_seed"]["test, fields"]
    assert found["seeds"] == [0, 3] and len(set(found["sha256"])) == 2 and found["box"] is None
    figures = found["accuracy"]["test, fields"]["all"]
    assert figures["images"] == 2
    assert figures["dice"]["mean"] == pytest.approx(np.mean(each), abs=2e-6)
    assert f"{min(each):.4f} to {max(each):.4f}" in result.out


def test_a_killed_unet_goes_on(
    commands: Any, bench: Any, tmp_path: Path, phantom_data: Path
) -> None:
    recipe = RECIPE.replace("epochs: 1", "epochs: 3", 1) + "checkpoint_minutes: 0.0001\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    args = [phantom_data, "-o", tmp_path / "out", "--rows", "unet-latency", "--train-only"]
    args += ["--recipe", tmp_path / "recipe.yaml", "--features", "unet-latency", TINY]
    line = commands.line("bench", "methods", *args)
    row = tmp_path / "out/seed0/unet-latency"
    with subprocess.Popen(line, env=commands.environment(), stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 300
        while not (row / "stage1/last.ckpt").is_file() and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    saved = torch.load(row / "stage1/last.ckpt", weights_only=True)
    assert 0 < saved["global_step"] < 36 and not (row / "model.ckpt").exists()
    result = bench("methods", *args)
    assert result.code == 0, result.err[-2000:]
    report = json.loads((row / "stage1.json").read_text())
    assert report["images"] == 3 * 96 and report["seconds"] > saved["seconds"] > 0
    assert not (tmp_path / "out/methods.json").exists()


def test_a_unet_goes_on_from_another(
    record: dict[str, Any], bench: Any, home: Path, tmp_path: Path, phantom_data: Path
) -> None:
    start = tmp_path / "long.ckpt"
    shutil.copy(home / "out/seed0/unet-size/model.ckpt", start)
    args = ["-o", tmp_path / "out", "--rows", "unet-size", "--recipe", home / "recipe.yaml"]
    args += ["--start", "unet-size", start, "--train-only"]
    result = bench("methods", phantom_data, *args)
    assert (
        result.code == 1
        and "long.ckpt" in result.err
        and "channels [16, 16, 32, 32, 64]" in result.err
    )
    result = bench("methods", phantom_data, *args, "--features", "unet-size", TINY)
    assert result.code == 0, result.err[-2000:]
    found = load(tmp_path / "out/seed0/unet-size/model.ckpt").description
    assert found.images == 480 + 96 and found.metrics["val_dice"] > 0.7


@pytest.mark.parametrize(
    "bad",
    [
        ["--rows", "qlora"],
        ["--seeds", "0,0"],
        ["--seeds", "one"],
        ["--features", "unet-size", "8,8,8"],
        ["--features", "full", TINY],
        ["--start", "lora", "x.ckpt"],
    ],
)
def test_wrong_usage(bench: Any, tmp_path: Path, phantom_data: Path, bad: list[str]) -> None:
    assert bench("methods", phantom_data, "-o", tmp_path / "out", *bad).code == 2
    assert not (tmp_path / "out").exists()


def test_what_cannot_work_is_said_before_any_training(
    bench: Any, tmp_path: Path, home: Path, phantom_data: Path, data: Path
) -> None:
    out = ["-o", tmp_path / "out", "--recipe", home / "recipe.yaml"]
    result = bench("methods", phantom_data, *out)
    assert result.code == 1 and "--checkpoint" in result.err
    result = bench("methods", phantom_data, *out, "--checkpoint", tmp_path / "none.ckpt")
    assert result.code == 1 and "none.ckpt" in result.err
    (tmp_path / "other.yaml").write_text(RECIPE.replace(f"image_size: {SIZE}", "image_size: 64"))
    other = ["--row-recipe", "unet-size", tmp_path / "other.yaml"]
    result = bench("methods", phantom_data, *out, "--rows", "unet-size,unet-latency", *other)
    assert result.code == 1 and "image_size" in result.err
    empty = tmp_path / "empty.csv"
    empty.write_text("image,mask,split\n")
    result = bench("methods", phantom_data, *out, "--rows", "unet-size", "--test", empty)
    assert result.code == 1 and "--test" in result.err
    assert not (tmp_path / "out").exists()


def test_external_images_are_read_when_asked_alone(data: Path, phantom_data: Path) -> None:
    (test,) = list_tests([data], DataRecipe(), ["fields", "whole"], False, None)
    assert (test.split, len(test.cases)) == ("test", 4)
    assert {case.row["split"] for case in test.cases} == {"test"}
    _, external = list_tests([data], DataRecipe(), ["fields"], True, None)
    assert {case.row["split"] for case in external.cases} == {"external"}
    both = list_tests([data, phantom_data], DataRecipe(), ["fields"], False, 2)
    assert [case.row["source"] for case in both[0].cases] == ["a", "a", "xrays", "xrays"]
    narrow = DataRecipe(where={"source": ["a"]}, group_column="patient")
    (test,) = list_tests([data], narrow, ["fields"], False, None)
    assert [case.row["source"] for case in test.cases] == ["p0", "p1"]
    with pytest.raises(CxrsegError, match="test"):
        list_tests([data], DataRecipe(), ["whole"], False, None)


def test_boxes_lie_around_the_mask() -> None:
    mask = np.zeros((200, 100), dtype=bool)
    mask[50:150, 20:60] = True
    exact = box_around(mask, SIZE, np.random.default_rng(0), jitter=0)
    np.testing.assert_allclose(exact, SIZE * np.array([0.2, 0.25, 0.6, 0.75]), rtol=1e-6)
    moves = [box_around(mask, SIZE, np.random.default_rng(i)) - exact for i in range(50)]
    outwards = np.stack(moves) * [-1, -1, 1, 1] / SIZE
    assert outwards.min() >= -1e-6 and 0.03 < outwards.max() <= 20 / 512 + 1e-6
    everything = box_around(mask, SIZE, np.random.default_rng(0), jitter=50)
    assert everything.min() >= 0 and everything.max() <= SIZE


def test_a_box_reaches_the_network(record: dict[str, Any], home: Path, phantom_data: Path) -> None:
    model = load(home / "out/seed0/lora/model.ckpt").model
    file = home / "out/seed0/lora" / line(record, "lora", "fp32")["file"]
    session = Prompted(model)
    image = {"image": np.random.default_rng(0).random((1, 1, SIZE, SIZE), dtype=np.float32)}
    free = session.run(None, image)[0]
    session.box = np.array([0, 0, SIZE, SIZE], dtype=np.float32)
    np.testing.assert_allclose(session.run(None, image)[0], free, atol=1e-4)
    session.box = np.array([30, 30, 60, 60], dtype=np.float32)
    assert np.abs(session.run(None, image)[0] - free).max() > 1e-3
    path = sorted((phantom_data / "test/images").iterdir())[0]
    case = Case(path.name, path, phantom_data / "test/masks" / path.name, "p", {"source": "x"})
    prompted = [
        list(prompted_scores(Segmenter(file, "cpu", 1), model, [case], seed)) for seed in (0, 0, 1)
    ]
    assert prompted[0] == prompted[1] != prompted[2]
    plain = list(score(Segmenter(file, "cpu", 1), [case], "source"))
    assert prompted[0][0].union != plain[0].union
    mean = over_seeds([prompted[0], plain])[0].union.dice
    assert mean == pytest.approx((prompted[0][0].union.dice + plain[0].union.dice) / 2)
