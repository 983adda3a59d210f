"""Names of earlier versions, which are read for one release more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cxrseg.runtime.terminal.console import echo

OLD_NAMES = {
    "stage1.skip_misfiled": "stage1.skip_mislabeled",
    "stage2.skip_misfiled": "stage2.skip_mislabeled",
    "stage1.teaching": "stage1.distillation",
    "stage2.teaching": "stage2.distillation",
    "average_sha256": "soup_sha256",
    "vit_t-mean": "vit_t-soup",
    "--average": "--soup",
}
"""Old name -> new name: settings of a recipe, fields of ``run.json``, shipped recipes, options."""

GONE = ("data.workers",)
"""Settings that have no effect any more."""

LAST_RELEASE = "0.3"
"""The last release that reads the old names."""


def rename_keys(data: dict[str, Any]) -> list[str]:
    """Give the keys of plain data their new names, and drop those that are gone, in place.

    Args:
        data: A recipe, or the settings of a run; nested dicts. A key whose new name is there too
            stays.

    Returns:
        The old names that were found.
    """
    old_names = []
    for old, new in OLD_NAMES.items():
        place, key = _place_of(data, old)
        name = new.rpartition(".")[2]
        if isinstance(place, dict) and key in place and name not in place:
            place[name] = place.pop(key)
            old_names.append(old)
    for old in GONE:
        place, key = _place_of(data, old)
        if isinstance(place, dict) and key in place:
            del place[key]
            old_names.append(old)
    return old_names


def _place_of(data: dict[str, Any], name: str) -> tuple[Any, str]:
    """Return what should be the dict that holds a dotted key, and the key's last part."""
    *sections, key = name.split(".")
    place: Any = data
    for section in sections:
        place = place.get(section) if isinstance(place, dict) else None
    return place, key


def warn_of_old_names(source: str | Path, names: Sequence[str]) -> None:
    """Print one line on stderr that tells the new names, if any old one was used."""
    if names:
        told = ", ".join(
            f"{name} has no effect" if name in GONE else f"{name} is now {OLD_NAMES[name]}"
            for name in names
        )
        text = f"warning: {source}: {told}; the old names are read in {LAST_RELEASE} only"
        echo(text, err=True)
