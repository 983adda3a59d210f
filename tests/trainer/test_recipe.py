"""Recipes: defaults, overrides, and refusals that name the key."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import yaml

import cxrseg.trainer
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.trainer.recipe import Recipe
from cxrseg.trainer.recipe_file import read_recipe

SHIPPED = sorted((Path(cxrseg.trainer.__file__).parent / "recipes").glob("*.yaml"))


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    return tmp_path / "recipe.yaml"


def test_defaults() -> None:
    recipe = read_recipe(None, {})
    assert recipe == Recipe()
    assert (recipe.model, recipe.image_size, recipe.method) == ("vit_t", 256, "adalora")
    assert recipe.channels == ("right_lung", "left_lung")


def test_options_win_and_the_rest_stays(recipe_file: Path) -> None:
    recipe_file.write_text("model: vit_b\nimage_size: 512\nstage1: {lr: 0.5}\n")
    recipe = read_recipe(recipe_file, {"image_size": 128, "model": None})
    assert (recipe.model, recipe.image_size, recipe.stage1.lr) == ("vit_b", 128, 0.5)
    assert recipe.stage1.epochs == Recipe().stage1.epochs


def test_labels_take_a_fixed_order(recipe_file: Path) -> None:
    recipe_file.write_text("labels: [whole, fields]\n")
    assert read_recipe(recipe_file, {}).channels == (
        "right_lung",
        "left_lung",
        "right_lung_whole",
        "left_lung_whole",
    )


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_empty_file_gives_the_defaults(text: str, recipe_file: Path) -> None:
    recipe_file.write_text(text)
    assert read_recipe(recipe_file, {}) == Recipe()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("learning_rate: 1", "learning_rate"),
        ("stage1: {lerning_rate: 1}", "stage1.lerning_rate"),
        ("stage1: {epochs: 0}", "stage1"),
        ("stage2: {epochs: -1}", "stage2.epochs"),
        ("adapters: {init_rank: many}", "adapters.init_rank"),
        ("quantization: {weight_bits: 3}", "quantization.weight_bits"),
        ("augment: {gama: 1}", "augment.gama"),
        ("data: {val_images: -2}", "data.val_images"),
        ("image_size: 100", "image_size"),
        ("image_size: 16", "image_size"),
        ("model: vit_x", "model"),
        ("labels: []", "labels"),
        ("labels: [fields, fields]", "labels"),
        ("labels: [heart]", "labels"),
        ("labels: [spleen]", "labels.0"),
        ("stage1: 3", "stage1"),
    ],
)
def test_refusals_name_the_key(text: str, key: str, recipe_file: Path) -> None:
    recipe_file.write_text(text)
    with pytest.raises(CxrsegError) as refused:
        read_recipe(recipe_file, {})
    assert str(refused.value).startswith(f"{recipe_file}: {key}: ")
    assert "\n" not in str(refused.value)


def test_bad_option_is_not_blamed_on_a_file() -> None:
    with pytest.raises(CxrsegError, match=r"^--image-size: "):
        read_recipe(None, {"image_size": 100})


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"model: [vit_t", "not a YAML file"),
        (b"\x89PNG\r\n\x1a\n\x00\x01", "not a YAML file"),
        (b"a: &x [*x]\n: : :", "not a YAML file"),
        (b"- model\n- vit_t\n", "mapping"),
        (b"just words", "mapping"),
        (b"!!python/object/apply:os.system ['true']", "not a YAML file"),
    ],
)
def test_other_files_are_refused(content: bytes, cause: str, recipe_file: Path) -> None:
    recipe_file.write_bytes(content)
    with pytest.raises(CxrsegError, match=cause) as refused:
        read_recipe(recipe_file, {})
    assert "\n" not in str(refused.value)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CxrsegError, match="no such file"):
        read_recipe(tmp_path / "none.yaml", {})
    with pytest.raises(CxrsegError, match="is a folder"):
        read_recipe(tmp_path, {})


def test_recipe_survives_plain_data() -> None:
    recipe = Recipe(labels=("fields", "whole"), model="vit_b")
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_recipes_are_valid(path: Path) -> None:
    recipe = read_recipe(path, {})
    assert recipe != Recipe()
    named = set(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert named <= set(Recipe.model_fields)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_recipes_go_by_name(path: Path, tmp_path: Path) -> None:
    assert read_recipe(Path(path.stem), {}) == read_recipe(path, {})
    with pytest.raises(CxrsegError, match=path.stem):
        read_recipe(tmp_path / path.stem, {})


def test_a_file_of_that_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(SHIPPED[0].stem).write_text("seed: 77")
    assert read_recipe(Path(SHIPPED[0].stem), {}).seed == 77


def test_there_are_shipped_recipes() -> None:
    assert SHIPPED
    assert files("cxrseg.trainer").joinpath("recipes").is_dir()


ABSURD = {
    "date": "seed: 2024-01-01",
    "no date": "seed: 2024-13-45",
    "5,000 digits": f"seed: {'9' * 5000}",
    "4,000 digits": f"stage1: {{epochs: {'9' * 4000}}}",
    "digits of devices": f"devices: {'9' * 4000}",
    "infinite": "stage1: {lr: .inf}",
    "beyond floats": "stage1: {lr: 1.0e+999}",
    "not a number": "data: {balance: .nan}",
    "infinite rank": "adapters: {orthogonality: .inf}",
    "no ratio": "quantization: {min_sqnr: .nan}",
    "batch": "stage2: {batch_size: 1000000000}",
    "channels": "{model: unet, unet: {channels: [1000000000, 8]}}",
    "negative seed": "seed: -1",
    "nested": "[" * 20_000,
    "nested settings": f"data: {'{a: ' * 5000}1{'}' * 5000}",
    "holds itself": "data: &a {where: *a}",
    "doubled 30 times": "".join(
        f"{name}: &{name} [{f'*{chr(ord(name) - 1)}, ' * 9}]\n" if name > "a" else "a: &a [1]\n"
        for name in "abcdefghijklmnopqrstuvwxyz"
    ),
    "repeated": f"data: {{where: {{a: &a [{'1, ' * 9000}1], {'b: *a, ' * 2000}}}}}",
    "many errors": f"data: {{where: {{a: [{'1, ' * 20_000}1]}}}}",
    "Python's object": "!!python/object/apply:os.system [echo hi]",
    "two documents": "seed: 1\n---\nseed: 2",
    "date as a key": "{2024-01-01: 1}",
    "large": "#" * 70_000,
    "zeros": "seed: 3\0",
}
"""What a recipe could hold -> its text."""


@pytest.mark.parametrize("text", ABSURD.values(), ids=ABSURD)
def test_absurd_values_are_refused_in_one_line(text: str, recipe_file: Path) -> None:
    recipe_file.write_text(text)
    with pytest.raises(CxrsegError) as refused:
        read_recipe(recipe_file, {})
    message = str(refused.value)
    assert message.startswith(f"{recipe_file}: ")
    assert "\n" not in message and len(message) < 600


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_recipes_of_windows_editors(encoding: str, recipe_file: Path) -> None:
    recipe_file.write_text("seed: 3  # größer\r\n", encoding=encoding)
    assert read_recipe(recipe_file, {}).seed == 3


@pytest.mark.parametrize("path", ["/dev/zero", "/"])
def test_what_is_no_file_is_refused(path: str) -> None:
    with pytest.raises(CxrsegError, match=f"{path}: cannot be read"):
        read_recipe(Path(path), {})


def test_the_heart_is_the_last_channel() -> None:
    recipe = Recipe.model_validate({"labels": ["heart", "fields"]})
    assert recipe.channels == ("right_lung", "left_lung", "heart")


def test_a_vit_has_masks_for_four_labels() -> None:
    everything = {"labels": ["fields", "whole", "heart"]}
    assert len(Recipe.model_validate({**everything, "model": "conv_t"}).channels) == 5
    with pytest.raises(ValueError, match="a vit_t has 4 masks: leave one of the labels out"):
        Recipe.model_validate({**everything, "model": "vit_t"})
