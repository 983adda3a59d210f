"""A tiny model, a data set of phantoms, and a way to run ``cxrseg-bench``."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from cxrseg.runtime.core.model_card import METADATA_KEY, ModelCard
from cxrseg.runtime.core.preprocess import Preprocessing
from helpers.drawing import phantoms

SIZE = 64
SPLITS = ("train", "test", "test", "test", "test", "external")


def tiny_model() -> bytes:
    """Dark tissue in the middle of the frame is lung, right lung left of the middle."""
    cells = SIZE // 4
    place = np.full((1, 2, cells, cells), -100, np.float32)
    rows = slice(cells // 8, cells * 7 // 8)
    place[0, 0, rows, cells // 8 : cells // 2] = 0
    place[0, 1, rows, cells // 2 : cells * 7 // 8] = 0
    nodes = [
        helper.make_node("AveragePool", ["image"], ["mean"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Sub", ["level", "mean"], ["dark"]),
        helper.make_node("Add", ["dark", "place"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, SIZE, SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2, cells, cells])
    weights = [
        numpy_helper.from_array(np.array(0.7, np.float32), "level"),
        numpy_helper.from_array(place, "place"),
    ]
    graph = helper.make_graph(nodes, "tiny", [image], [logits], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    card = ModelCard("tiny", "9.9", ("right_lung", "left_lung"), Preprocessing(SIZE))
    helper.set_model_props(model, {METADATA_KEY: card.to_json()})
    return bytes(model.SerializeToString())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_model())
    return path


def write_csv(path: Path, rows: Sequence[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@cache
def drawn(seed: int) -> phantoms.Phantom:
    return phantoms.draw(seed, (96, 80))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a CSV of six phantoms; masks are label maps in source a and binary in source b."""
    home = tmp_path / "data"
    (home / "images").mkdir(parents=True)
    (home / "masks").mkdir()
    rows = []
    for number, split in enumerate(SPLITS):
        phantom = drawn(number)
        source = "a" if number % 2 else "b"
        mask = phantom.mask if source == "a" else np.where(phantom.mask > 0, 255, 0)
        cv2.imwrite(str(home / f"images/{number}.png"), phantom.image)
        cv2.imwrite(str(home / f"masks/{number}.png"), mask.astype(np.uint8))
        rows.append(
            {
                "image": f"images/{number}.png",
                "mask": f"masks/{number}.png",
                "split": split,
                "source": source,
                "patient": f"p{number // 2}",
            }
        )
    path = home / "pairs.csv"
    write_csv(path, rows)
    return path


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Bench = Callable[..., Result]


@pytest.fixture
def bench(capfd: pytest.CaptureFixture[str]) -> Bench:
    """Run ``cxrseg-bench`` in this process and capture what it prints."""

    def run(*args: str | Path | int) -> Result:
        from cxrseg.benchmarks.cli import main

        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(arg) for arg in args])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Result(int(stop.value.code or 0), out, err)

    return run


@pytest.fixture(scope="session")
def phantom_csv(phantom_data: Path) -> Path:
    """Return a CSV of the phantoms that the nano model was trained for, in two sources."""
    rows = []
    for split in ("val", "test"):
        for number, path in enumerate(sorted((phantom_data / split / "images").iterdir())):
            image = path.relative_to(phantom_data)
            row = {"image": image, "mask": Path(split, "masks", path.name), "split": split}
            rows.append({**row, "source": "ab"[number % 2], "patient": f"p{number // 2}"})
    path = phantom_data / "pairs.csv"
    write_csv(path, [{name: str(value) for name, value in row.items()} for row in rows])
    return path


@pytest.fixture(scope="session")
def exports(
    fine_run: Path, phantom_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Return precision -> model file of the fine-tuned nano model."""
    from cxrseg.export.options import ExportOptions
    from cxrseg.export.pipeline import export

    folder, images = tmp_path_factory.mktemp("exports"), phantom_data / "val/images"
    both = (
        ExportOptions(precision="int8", verify_images=images),
        ExportOptions(precision="fp32", verify_images=images),
    )
    files = {each.precision: folder / f"{each.precision}.onnx" for each in both}
    for options in both:
        export(fine_run / "model.ckpt", files[options.precision], options)
    return dict(files)


@pytest.fixture(scope="session")
def paper_run(fine_run: Path, phantom_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of ``cxrseg-bench paper`` on the fine-tuned nano model."""
    from cxrseg.benchmarks.cli import main
    from cxrseg.benchmarks.speed import latency, roofline, timing

    folder = tmp_path_factory.mktemp("paper") / "ward7"
    args = ("paper", fine_run, "--data", phantom_csv, "-o", folder, "--runs", 2, "--threads", 1)
    with pytest.MonkeyPatch.context() as patch:
        # Rests and large products matter to times alone.
        patch.setattr(timing, "settle", lambda: None)
        patch.setattr(latency, "LOADS", 1)
        patch.setattr(roofline, "SHAPES", ((16, 32, 16),))
        with pytest.raises(SystemExit) as stop:
            main([str(arg) for arg in args])
    # The nano model is mostly graph, not weights: its compression is below the paper's.
    assert stop.value.code == 1
    return folder
