from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cxrseg.runtime import Segmenter
from cxrseg.runtime.batch import process as batch
from cxrseg.runtime.batch.jobs import Settings
from cxrseg.runtime.batch.plan import plan
from cxrseg.runtime.batch.run import RunOptions
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


@pytest.mark.skipif(os.name != "posix", reason="Windows opens no folders")
@pytest.mark.parametrize("watch", [True, False])
def test_what_watching_reports_as_done_is_on_the_disk(
    model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: bool
) -> None:
    save_chests(tmp_path / "in", 1)
    segmenter = Segmenter(model[1], "cpu")
    synced: list[str] = []

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        synced.append("folder" if stat.S_ISDIR(status.st_mode) else f"{status.st_size} bytes")

    monkeypatch.setattr(os, "fsync", fsync)
    (job,) = plan([tmp_path / "in"], tmp_path / "out")
    outcome = batch.process(job, segmenter, Settings(durable=watch))
    # The new folder's own entry, the three files whole, and their entries.
    sizes = [f"{path.stat().st_size} bytes" for path in outcome.outputs]
    assert synced == (["folder", *sizes, "folder"] if watch else [])


@pytest.mark.parametrize("watch", [True, False])
def test_watching_alone_waits_for_the_disk(tmp_path: Path, watch: bool) -> None:
    values = {name: None for name in RunOptions.__annotations__} | {
        "inputs": (tmp_path,),
        "formats": ("png", "json"),
        "watch": watch,
    }
    assert RunOptions(**values).settings.durable == watch  # type: ignore[arg-type]
