"""A SAM that is prompted with a box."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from cxrseg.benchmarks.accuracy.scoring import score
from cxrseg.benchmarks.harness.samples import Sample
from cxrseg.benchmarks.methods.box_prompts import Prompted, box_around, prompted_scores
from cxrseg.export.options import ExportOptions
from cxrseg.export.pipeline import export
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.runtime.segmenter import Segmenter
from cxrseg.trainer.fit.checkpoint import Description, build, load, save
from cxrseg.trainer.networks.unet import UNetArchitecture

SIZE = 96


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


def test_a_box_reaches_the_network(
    bench: Any, base_run: Path, phantom_data: Path, phantom_csv: Path, tmp_path: Path
) -> None:
    checkpoint, file = base_run / "model.ckpt", tmp_path / "fp32.onnx"
    export(checkpoint, file, ExportOptions(precision="fp32"))
    model = load(checkpoint).model
    session = Prompted(model)
    image = {"image": np.random.default_rng(0).random((1, 1, SIZE, SIZE), dtype=np.float32)}
    free = session.run(None, image)[0]
    session.box = np.array([0, 0, SIZE, SIZE], dtype=np.float32)
    np.testing.assert_allclose(session.run(None, image)[0], free, atol=1e-4)
    session.box = np.array([30, 30, 60, 60], dtype=np.float32)
    assert np.abs(session.run(None, image)[0] - free).max() > 1e-3
    path = sorted((phantom_data / "test/images").iterdir())[0]
    mask = phantom_data / "test/masks" / path.name
    sample = Sample(path.name, path, mask, "p", {"source": "x"})
    prompted = [
        list(prompted_scores(Segmenter(file, "cpu", 1), model, [sample], "source", seed))
        for seed in (0, 0, 1)
    ]
    assert prompted[0] == prompted[1] != prompted[2]
    plain = list(score(Segmenter(file, "cpu", 1), [sample], "source"))
    assert prompted[0][0].union != plain[0].union
    output = tmp_path / "box.json"
    done = bench("box-prompts", file, checkpoint, "--data", phantom_csv, "-o", output)
    assert done.code == 0, done.err
    summary = json.loads(output.read_text())["data"]["summary"]
    assert summary["all"]["images"] == 4


def test_a_pair_that_does_not_fit_is_refused(
    bench: Any, model: Path, base_run: Path, tmp_path: Path
) -> None:
    """Before the images are read, which are not there."""
    missing = ("--data", tmp_path / "none.csv")
    done = bench("box-prompts", model, base_run / "model.ckpt", *missing)
    assert done.code == 1 and "was not exported from the checkpoint" in done.err
    labels = ("right_lung", "left_lung")
    unet = Description(UNetArchitecture((4, 8, 8)), labels, Preprocessing(64))
    save(build(unet), unet, tmp_path / "unet.ckpt")
    done = bench("box-prompts", model, tmp_path / "unet.ckpt", *missing)
    assert done.code == 1 and "a unet: " in done.err and "vit_t" in done.err
