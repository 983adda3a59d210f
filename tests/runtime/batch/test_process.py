from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cxrseg.runtime import Segmenter
from cxrseg.runtime.batch import process as batch
from cxrseg.runtime.batch.plan import plan
from helpers.runs import MAIN, contents, save_chests


def test_an_image_read_ahead_of_its_turn_gives_the_same(model, tmp_path: Path) -> None:
    save_chests(tmp_path / "in", 1)
    segmenter = Segmenter(model[1], "cpu")
    for name in ("ahead", "in turn"):
        (job,) = plan([tmp_path / "in"], tmp_path / name)
        if name == "ahead":
            ahead = batch.read_ahead(job)
            assert ahead == job
            assert ahead.ahead is not None
            job = ahead
        outcome = batch.process(job, segmenter)
        assert outcome.report["timings_ms"]["read"] > 0
    assert contents(tmp_path / "ahead") == contents(tmp_path / "in turn")


def test_what_cannot_be_read_ahead_is_told_in_its_turn(model, tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"no image")
    (job,) = plan([path], tmp_path / "out")
    assert batch.read_ahead(job) == job
    assert batch.read_ahead(job).ahead is None
    done = subprocess.run(
        [sys.executable, "-c", MAIN, str(path), *model], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("broken.png") == 1
    assert "Traceback" not in done.stderr
