"""Recipe files: YAML, of the user or shipped with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.files.opening import read_file
from cxrseg.trainer.old_names import OLD_NAMES, rename_keys, warn_of_old_names
from cxrseg.trainer.recipe import Recipe

MAX_BYTES = 65_536
"""Largest recipe file accepted, in bytes."""

MAX_VALUES = 10_000
"""Most values of a recipe, those that aliases repeat counted each time."""

RECIPES = Path(__file__).with_name("recipes")
"""Folder of the recipes that ship with the package."""


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that ship with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(path: Path | None, overrides: dict[str, Any]) -> Recipe:
    """Read a YAML recipe and let options given on the command line win.

    Args:
        path: YAML file, the name of a shipped recipe, or None for the defaults.
        overrides: Top-level settings; None values do not count.

    Raises:
        CxrsegError: Not YAML, an unknown key, or a value out of range; names the key.
    """
    source: str | Path = path or "options"
    given = {key: value for key, value in overrides.items() if value is not None}
    data = {**({} if path is None else _read_yaml(path)), **given}
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        setting = key.partition(".")[0]
        if setting in given:
            option = f"--{setting.replace('_', '-')}"
            raise CxrsegError(option, message, "give another value") from None
        if not key:  # what is wrong is that several settings do not fit together
            raise CxrsegError(source, message, "change one of these settings") from None
        raise CxrsegError(source, f"{key}: {message}", "correct or remove this key") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    """Read a recipe's file, or the shipped recipe of that name; old names become the new ones."""
    if str(path) in OLD_NAMES and not path.exists():
        warn_of_old_names("--recipe", [str(path)])
        path = Path(OLD_NAMES[str(path)])
    if str(path) in shipped_recipes() and not path.exists():
        path = RECIPES / f"{path}.yaml"
    remedy = "cxrseg-train --show-recipe prints one"
    try:
        data = yaml.safe_load(read_file(path, MAX_BYTES)) or {}
    except FileNotFoundError:
        names = ", ".join(shipped_recipes())
        remedy = f"give a YAML recipe, or the name of a shipped one: {names}"
        raise CxrsegError(path, "no such file", remedy) from None
    except OSError as error:
        raise CxrsegError(path, f"cannot be read ({error.strerror or error})", remedy) from None
    # Dates that do not exist and numbers of thousands of digits are ValueErrors.
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise CxrsegError(path, f"not a YAML file ({str(error)[:200]})", remedy) from None
    if not isinstance(data, dict):
        raise CxrsegError(path, "a recipe is a mapping of settings", remedy)
    if _holds_more(data, MAX_VALUES):
        raise CxrsegError(path, f"holds more than {MAX_VALUES} values", remedy)
    warn_of_old_names(path, rename_keys(data))
    return data


def _holds_more(data: Any, most: int) -> bool:
    """Tell whether nested dicts and lists hold more than `most` values, or themselves."""
    waiting, count = [data], 0
    while waiting and count <= most:
        value = waiting.pop()
        parts = list(value.values()) if isinstance(value, dict) else value
        if isinstance(parts, list):
            waiting += parts
            count += len(parts)
    return count > most
