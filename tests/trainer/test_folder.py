"""What may lie in the folder of a run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from cxrseg.runtime.files.locks import take
from cxrseg.trainer.fit import run as settings
from helpers.outcomes import Call, refused

if os.name != "posix":
    pytest.skip("pipes and links of POSIX", allow_module_level=True)


@pytest.mark.parametrize("name", ["model.ckpt", "run.json", "stage1.ckpt", "stage1/last.ckpt"])
@pytest.mark.parametrize("kind", ["pipe", "link to nothing"])
def test_what_is_no_file_is_told_before_the_training(
    call_here: Call, small_data: Path, tmp_path: Path, name: str, kind: str
) -> None:
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nothing")
    done = call_here("train", small_data, "-o", tmp_path / "run", "--method", "full")
    refused(done, 1, str(path), "not a regular file" if kind == "pipe" else "a link to nothing")
    assert path.lstat() and len(list(path.parent.iterdir())) == 1


def test_a_folder_takes_one_run_at_a_time(
    call_here: Call,
    phantom_data: Path,
    base_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "_PATIENCE_S", 0)
    run = shutil.copytree(base_run, tmp_path / "run")
    options = ("--recipe", base_run.parent / "recipe.yaml", "--method", "full", "--stage", "1")
    again = ("train", phantom_data, "-o", run, *options, "--resume")
    (run / "model.ckpt").unlink()
    with (run / "run.json").open() as other:
        assert take(other.fileno())
        refused(call_here(*again), 1, f"{run}: another run is training there")
    assert not (run / "model.ckpt").exists()
    assert call_here(*again).code == 0 and (run / "model.ckpt").exists()


@pytest.mark.parametrize("option", ["--checkpoint", "--soup", "--teacher"])
def test_a_checkpoint_that_is_a_pipe_is_refused(
    call_here: Call, small_data: Path, fine_run: Path, tmp_path: Path, option: str
) -> None:
    path = tmp_path / "x.ckpt"
    os.mkfifo(path)
    start = [] if option == "--checkpoint" else ["--checkpoint", fine_run / "stage1.ckpt"]
    run = [small_data, "-o", tmp_path / "run", "--stage", "1", *start, option, path]
    done = call_here("train", *run)
    assert done.code == 1 and done.err.count("rror:") == 1
