"""The heads of the shipped recipes: commands of the product that can be followed to the end."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from cxrseg.benchmarks.cli import command as bench_command
from cxrseg.export.cli import command as export_command
from cxrseg.export.cli import recover_command
from cxrseg.trainer.cli import command as train_command
from cxrseg.trainer.recipe_file import RECIPES, read_recipe, shipped_recipes

COMMANDS: dict[str, click.Command] = {
    "cxrseg-train": train_command,
    "cxrseg-export": export_command,
    "cxrseg-recover": recover_command,
    "cxrseg-bench": bench_command,
}


@dataclass(frozen=True)
class Step:
    """A command of a head: the files that it takes, and the one that it makes."""

    recipe: str | None
    takes: frozenset[Path]
    makes: Path


def lines_of(name: str) -> list[str]:
    """Return the commands in the head of a recipe, continued lines joined."""
    commands: list[str] = []
    for line in (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("#   cxrseg-"):
            commands.append(line.removeprefix("#").strip())
        elif line.startswith("#     "):
            commands[-1] += f" {line.removeprefix('#').strip()}"
    return commands


def step(line: str) -> Step:
    """Parse a command as the product does."""
    program, *words = shlex.split(line)
    command = COMMANDS[program]
    if isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words.pop(0))
        assert found is not None
        command = found
    given = command.make_context(program, words).params
    starts = [given.get("checkpoint"), given.get("model")]
    files = [*starts, *given.get("soup", ()), *given.get("teacher", ())]
    takes = frozenset(path for path in files if isinstance(path, Path))
    # What cxrseg-bench makes here is a model file; its -o is the record.
    makes: Path = given["write_model" if program == "cxrseg-bench" else "output"]
    if program == "cxrseg-train":
        makes = makes / "model.ckpt"
    recipe = given.get("recipe")
    return Step(None if recipe is None else str(recipe), takes, makes)


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_head_tells_start_teachers_and_commands(name: str) -> None:
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    assert "# Starts from: " in text and "Teachers: " in text
    steps = [step(line) for line in lines_of(name)]
    assert name in {s.recipe for s in steps}
    for s in steps:
        assert s.recipe is None or s.recipe in shipped_recipes()


@pytest.mark.parametrize("name", shipped_recipes())
def test_teachers_are_given_where_the_recipe_distills(name: str) -> None:
    recipe = read_recipe(Path(name), {})
    distills = any(stage.distillation for stage in (recipe.stage1, recipe.stage2))
    commands = [line for line in lines_of(name) if f"--recipe {name}" in line]
    assert all(("--teacher" in line) == distills for line in commands)


def test_the_shipped_model_can_be_made_from_random_weights() -> None:
    left = [step(line) for name in shipped_recipes() for line in lines_of(name)]
    made: set[Path] = set()
    while ready := [s for s in left if s.takes <= made]:
        made |= {s.makes for s in ready}
        left = [s for s in left if s not in ready]
    assert not left, "steps that need what no step makes"
    assert Path("cxrseg.onnx") in made
