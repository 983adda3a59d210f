"""From X-rays with masks to the lungs of a new one, by the commands alone."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cxrseg.runtime.segmenter import Segmenter
from helpers.paths import DATA, REPO

Call = Callable[..., Any]

SHIPPED = REPO / "runtime/models/cxrseg-vit_t-int8.onnx"


def dice(found: NDArray[Any], truth: NDArray[Any]) -> float:
    return float(2 * np.sum(found & truth) / (found.sum() + truth.sum()))


@pytest.fixture(scope="module")
def model(
    fine_run: Path,
    phantom_data: Path,
    commands: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Export the fine-tuned nano model by the command."""
    path: Path = tmp_path_factory.mktemp("chain") / "nano.onnx"
    checkpoint, images = fine_run / "model.ckpt", phantom_data / "val/images"
    done = subprocess.run(
        commands.line("export", checkpoint, "-o", path, "--verify-images", images),
        capture_output=True,
        text=True,
        check=False,
        env=commands.environment(),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "QGemm" in done.stdout and f"wrote {path}" in done.stdout
    return path


def test_chain(model: Path, phantom_data: Path, call: Call, tmp_path: Path) -> None:
    images = sorted((phantom_data / "test/images").iterdir())
    done = call("run", "--model", model, "-o", tmp_path, "--device", "cpu", images[0].parent)
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == len(images) == 4
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    for path in images:
        with Image.open(tmp_path / f"{path.stem}_lungs.png") as file:
            assert file.mode == "P"
            mask = np.asarray(file)
        truth = np.asarray(Image.open(path.parent.parent / "masks" / path.name))
        assert mask.shape == truth.shape and set(np.unique(mask)) <= {0, 1, 2}
        assert dice(mask > 0, truth > 0) > 0.8
        for side in (1, 2):
            assert dice(mask == side, truth == side) > 0.7
        report = json.loads((tmp_path / f"{path.stem}.json").read_text())
        assert report["input"] == path.name
        assert report["model"]["sha256"] == digest
        with Image.open(tmp_path / f"{path.stem}_overlay.png") as overlay:
            assert overlay.size == truth.shape[::-1] and overlay.mode == "RGB"


def shenzhen(count: int) -> list[tuple[Path, Path]]:
    with (DATA / "pairs.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["split"] == "test"]
    rows = [row for row in rows if row["source"] == "shenzhen"][:count]
    return [(DATA / row["image"], DATA / row["mask"]) for row in rows]


@pytest.mark.xrays
@pytest.mark.skipif(not SHIPPED.is_file(), reason="no shipped model here")
def test_shipped_model_on_real_xrays() -> None:
    segmenter = Segmenter(SHIPPED, device="cpu")
    pairs = shenzhen(5)
    assert len(pairs) == 5
    for image, mask in pairs:
        truth = np.asarray(Image.open(mask).convert("L")) > 127
        found = segmenter.segment(image).mask
        assert found.shape == truth.shape
        assert dice(found > 0, truth) > 0.85, image.name
