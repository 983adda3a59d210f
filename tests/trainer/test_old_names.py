"""Old names of settings, fields, recipes and options: read for one release more, with a warning."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cxrseg.trainer.old_names import OLD_NAMES, rename_keys
from cxrseg.trainer.recipe import Recipe, StageRecipe
from cxrseg.trainer.recipe_file import read_recipe, shipped_recipes

Call = Callable[..., Any]

VALUES: dict[str, object] = {"skip_misfiled": True, "teaching": 0.25}
SETTINGS = [name for name in OLD_NAMES if name.startswith("stage")]


@pytest.mark.parametrize("old", SETTINGS)
def test_an_old_setting_is_the_new_one(
    old: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage, _, key = old.partition(".")
    value = VALUES[key]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"labels": ["fields", "whole"], stage: {key: value}}))
    recipe = read_recipe(path, {})
    assert getattr(getattr(recipe, stage), OLD_NAMES[old].partition(".")[2]) == value
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {path}: {old} is now {OLD_NAMES[old]}")


def test_several_old_names_make_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("labels: [fields, whole]\nstage1: {teaching: 0.5, skip_misfiled: true}\n")
    read_recipe(path, {})
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_new_names_are_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("stage1: {distillation: 0.5}\n")
    assert read_recipe(path, {}).stage1.distillation == 0.5
    for name in shipped_recipes():
        read_recipe(Path(name), {})
    assert not capsys.readouterr().err


def test_an_old_name_beside_the_new_one_is_left_to_be_refused() -> None:
    data = {"stage1": {"teaching": 0.5, "distillation": 0.25}, "stage2": 3}
    assert rename_keys(data) == []
    assert data["stage1"] == {"teaching": 0.5, "distillation": 0.25}


def test_every_new_name_exists() -> None:
    stage = set(StageRecipe.model_fields)
    for old, new in OLD_NAMES.items():
        if old in SETTINGS:
            section, _, key = new.partition(".")
            assert section in Recipe.model_fields and key in stage
    assert OLD_NAMES["vit_t-mean"] in shipped_recipes()


def test_an_old_recipes_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert read_recipe(Path("vit_t-mean"), {}) == read_recipe(Path("vit_t-soup"), {})
    assert "vit_t-mean is now vit_t-soup" in capsys.readouterr().err


def test_the_old_option(call_here: Call, small_data: Path, base_run: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: vit_n\nimage_size: 64\nmethod: full\n")
    average = ("--recipe", recipe, "--average", base_run / "model.ckpt")
    done = call_here("train", small_data, "-o", tmp_path / "run", *average)
    assert done.code == 1 and "--checkpoint" in done.errors[0]
    warnings = [line for line in done.err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1 and "--average is now --soup" in warnings[0]
    assert "--average" not in call_here("train", "--help").out


def test_a_run_of_before_can_be_resumed(
    call_here: Call, phantom_data: Path, base_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(base_run, run)
    settings = json.loads((run / "run.json").read_text())
    for old, new in OLD_NAMES.items():
        if old in SETTINGS:
            section, _, key = new.partition(".")
            stage = settings["recipe"][section]
            stage[old.partition(".")[2]] = stage.pop(key)
    settings["average_sha256"] = settings.pop("soup_sha256")
    (run / "run.json").write_text(json.dumps(settings))
    same = ("--recipe", base_run.parent / "recipe.yaml", "--method", "full", "--stage", "1")
    done = call_here("train", phantom_data, "-o", run, "--resume", *same)
    assert done.code == 0, done.err
    settings["average_sha256"] = ["0" * 64]
    (run / "run.json").write_text(json.dumps(settings))
    done = call_here("train", phantom_data, "-o", run, "--resume", *same)
    assert done.code == 1 and "another soup_sha256" in done.errors[0]


def test_a_setting_that_is_gone_has_no_effect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("data: {workers: 3, val_images: 7}\n")
    assert read_recipe(path, {}).data.val_images == 7
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {path}: data.workers has no effect; ")
