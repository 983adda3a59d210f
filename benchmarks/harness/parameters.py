"""Options of benchmarks: frozen dataclasses whose fields know their place on the command line.

Each fact stands once: a field's type and default are the program's, its help is the command's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, field, fields
from pathlib import Path
from typing import Any, ClassVar
from typing import Protocol as Structural

import click

PATH = click.Path(path_type=Path)

_PARAMETER = "parameter"


class Options(Structural):
    """Any frozen dataclass made of `option` and `argument` fields."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def option(*flags: str, default: Any = MISSING, **settings: Any) -> Any:
    """Return a dataclass field that is an option on the command line.

    Args:
        flags: As ``--split``; the field's name is the parameter's.
        default: Its default; without one the option is required.
        settings: As `click.Option` takes them.
    """
    required = default is MISSING
    shown = not required and default not in (None, ()) and default is not False
    settings = {"required": required, "show_default": shown, **settings}
    if not required:
        settings["default"] = default
    return field(default=default, kw_only=True, metadata={_PARAMETER: (flags, settings)})


def argument(default: Any = MISSING, **settings: Any) -> Any:
    """Return a dataclass field that is an argument on the command line.

    Args:
        default: Its default; without one the argument is required.
        settings: As `click.Argument` takes them.
    """
    required = default is MISSING
    if not required and settings.get("nargs") != -1:
        settings["default"] = default
    settings["required"] = required
    return field(default=default, kw_only=True, metadata={_PARAMETER: ((), settings)})


def parameters(options: type[Options]) -> Iterator[click.Parameter]:
    """Give the command line's parameters of a dataclass of options, in the order of its fields."""
    for declared in fields(options):
        flags, settings = declared.metadata[_PARAMETER]
        if flags:
            yield click.Option([*flags, declared.name], **settings)
        else:
            yield click.Argument([declared.name], **settings)


def words(options: Options) -> Iterator[str]:
    """Give the words of the command line that stands for options, without those at defaults.

    Arguments come first. Paths are cut down to their file names: a record tells nothing of the
    machine.
    """
    for declared in sorted(fields(options), key=_is_option):
        flags, settings = declared.metadata[_PARAMETER]
        value = getattr(options, declared.name)
        if value is None or value == declared.default:
            continue
        repeated = settings.get("multiple") or settings.get("nargs") == -1
        for one in value if repeated else (value,):
            if flags:
                yield max(flags, key=len)
            if one is not True:
                for part in one if isinstance(one, tuple) else (one,):
                    yield part.name if isinstance(part, Path) else str(part)


def changed(options: Options, *names: str) -> list[str]:
    """Return those of the named fields that are not at their defaults."""
    defaults = {declared.name: declared.default for declared in fields(options)}
    return [name for name in names if getattr(options, name) != defaults[name]]


def _is_option(declared: Field[Any]) -> bool:
    return bool(declared.metadata[_PARAMETER][0])
