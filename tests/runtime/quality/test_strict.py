from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from helpers.drawing import phantoms

Pixels = NDArray[np.float32]


def drawn(seed: int) -> Pixels:
    return np.asarray(phantoms.draw(seed, 320).image / 255, np.float32)


def save(pixels: Pixels, path: Path) -> Path:
    Image.fromarray((255 * pixels).astype(np.uint8)).save(path)
    return path


def test_strict_run_withholds_what_is_flagged(run_cxrseg, xrays: Path) -> None:
    good, bad = save(drawn(0), xrays / "a.png"), save(drawn(0)[::-1], xrays / "b.png")
    result = run_cxrseg("--strict", "--device", "cpu", bad, good)
    assert result.code == 3 and not result.errors
    refused, done = result.out.splitlines()
    assert "-> nothing, --strict [flag: the image seems to be upside down]" in refused
    assert "a_lungs.png" in done and "[flag" not in done
    names = {path.name for path in xrays.iterdir()}
    assert names == {"a.png", "b.png", "a_lungs.png", "a_overlay.png", "a.json"}


def test_strict_run_without_flags_ends_well(run_cxrseg, xrays: Path) -> None:
    assert run_cxrseg("--strict", save(drawn(0), xrays / "a.png")).code == 0


def test_failure_outweighs_a_flag(run_cxrseg, xrays: Path) -> None:
    bad = save(drawn(0)[::-1], xrays / "b.png")
    (xrays / "c.png").write_bytes(b"no image")
    assert run_cxrseg("--strict", xrays / "c.png", bad).code == 1
    assert run_cxrseg("--strict", bad, xrays / "c.png").code == 1


def test_run_that_is_not_strict_writes_and_tells(run_cxrseg, xrays: Path) -> None:
    result = run_cxrseg(save(drawn(0)[::-1], xrays / "b.png"))
    assert result.code == 0 and "[flag: the image seems to be upside down]" in result.out
    (flag,) = json.loads((xrays / "b.json").read_text())["flags"]
    assert flag["code"] == "upside_down" and flag["value"] > flag["threshold"]


LACKING = "inverted, upside_down, rotated, not_chest, mirrored, cropped, implausible_shape"


def test_model_without_reference_says_once_what_it_cannot_judge(
    run_cxrseg, model_file, save_chest, xrays: Path
) -> None:
    model = model_file(reference=None)
    paths = [save_chest(xrays / f"{name}.png") for name in "abc"]
    result = run_cxrseg("--model", model, *paths)
    assert result.code == 0 and len(result.out.splitlines()) == 3
    (said,) = result.errors
    assert said.startswith(f"{model}: has no quality reference for protocol fields; not assessed: ")
    assert LACKING in said
    for path in paths:
        report = json.loads(path.with_suffix(".json").read_text())
        assert ", ".join(report["not_assessed"]) == f"{LACKING}, low_confidence"
        assert not report["flags"]


def test_code_that_is_raised_is_not_told_as_not_assessed(
    run_cxrseg, model_file, xrays: Path
) -> None:
    # All of a blank dark image is lung to the tiny model.
    path = save(np.zeros((120, 100), np.float32), xrays / "a.png")
    assert run_cxrseg("--model", model_file(reference=None), path).code == 0
    report = json.loads((xrays / "a.json").read_text())
    assert report["flags"][0]["code"] == "not_chest"
    assert "not_chest" not in report["not_assessed"] and "mirrored" in report["not_assessed"]


def test_strict_refuses_a_model_without_reference(
    run_cxrseg, model_file, save_chest, xrays: Path
) -> None:
    model, path = model_file(reference=None), save_chest(xrays / "a.png")
    result = run_cxrseg("--strict", "--model", model, path)
    assert result.code == 1 and not result.out
    (error,) = result.errors
    assert error.startswith(f"error: {model}: has no quality reference for protocol fields, so")
    assert "cxrseg-bench quality-fit" in error and "--allow-unassessed" in error
    assert [x.name for x in xrays.iterdir()] == ["a.png"]

    result = run_cxrseg("--strict", "--allow-unassessed", "--model", model, path)
    assert result.code == 0 and len(result.errors) == 1
    assert (xrays / "a_lungs.png").is_file()


def test_allow_unassessed_is_about_strict(run_cxrseg, xrays: Path) -> None:
    assert run_cxrseg("--allow-unassessed", xrays).code == 2


def test_model_with_reference_assesses_everything(run_cxrseg, xrays: Path) -> None:
    path = save(drawn(0), xrays / "a.png")
    result = run_cxrseg("--strict", path)
    assert result.code == 0 and not result.err
    assert json.loads((xrays / "a.json").read_text())["not_assessed"] == []


@pytest.mark.parametrize("options", [("a.png",), ("--strict", "a.png"), ("--about",)])
def test_damaged_reference_is_an_error(
    run_cxrseg, model_file, save_chest, xrays: Path, options: tuple[str, ...]
) -> None:
    save_chest(xrays / "a.png")
    model = model_file(reference='{"format_version": 2}')
    args = [xrays / option if option == "a.png" else option for option in options]
    result = run_cxrseg("--model", model, *args)
    assert result.code == 1 and [x.name for x in xrays.iterdir()] == ["a.png"]
    (error,) = result.errors
    assert error.startswith(
        f"error: {model}: has a quality reference that cannot be used (format 2"
    )
    assert error.endswith("update cxrseg, or fit it again with cxrseg-bench quality-fit")
