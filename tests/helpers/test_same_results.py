from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.same_results import differences


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Return two equal folders of results."""
    before, after = tmp_path / "before", tmp_path / "after"
    (before / "a").mkdir(parents=True)
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(before / "a/x_lungs.png")
    report = {"program": "cxrseg 1", "model": {"name": "m", "version": "1", "sha256": "0"}}
    (before / "a/x.json").write_text(json.dumps({**report, "flags": [], "timings_ms": {"read": 1}}))
    shutil.copytree(before, after)
    return before, after


def edit_report(folder: Path, **values: object) -> None:
    path = folder / "a/x.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_what_tells_of_version_and_run_may_differ(folders: tuple[Path, Path]) -> None:
    before, after = folders
    model = {"name": "m", "version": "2", "sha256": "1"}
    edit_report(after, program="cxrseg 2", timings_ms={"read": 2}, not_assessed=[], model=model)
    Image.open(before / "a/x_lungs.png").save(after / "a/x_lungs.png", compress_level=0)
    assert differences(before, after) == (2, [])


def change_a_pixel(folder: Path) -> None:
    Image.fromarray(2 * np.eye(8, dtype=np.uint8)).save(folder / "a/x_lungs.png")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (change_a_pixel, "a/x_lungs.png: differs"),
        (lambda folder: edit_report(folder, flags=[{"code": "tiny"}]), "a/x.json: differs"),
        (lambda folder: (folder / "a/x.json").unlink(), "a/x.json: only in "),
    ],
)
def test_any_other_difference_is_told(
    folders: tuple[Path, Path], change: Callable[[Path], None], line: str
) -> None:
    change(folders[1])
    agree, (told,) = differences(*folders)
    assert agree == 1 and told.replace("\\", "/").startswith(line)


def test_part_of_the_results_may_be_compared(folders: tuple[Path, Path]) -> None:
    before, after = folders
    (after / "a/x.json").unlink()
    assert differences(before, after, part=True) == (1, [])
