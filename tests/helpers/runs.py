"""Runs of cxrseg-run, and what they leave."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from helpers.drawing import phantoms

MAIN = "from cxrseg.runtime.cli import program; program()"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def outputs_of(*stems: str) -> list[str]:
    return sorted(stem + end for stem in stems for end in ("_lungs.png", "_overlay.png", ".json"))


def run_python(code: str, *args: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=120, **options
    )


def lines_of(path: Path) -> list[dict]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    """Return name -> content; of reports without what differs from run to run."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.suffix == ".json":
                data = re.sub(rb'"timings_ms": \{[^}]*\}', b"", data)
            found[str(path.relative_to(folder))] = data
    return found


def save_chests(folder: Path, count: int, seed: int = 0, height: int = 72) -> None:
    """Save images that all differ."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        image = phantoms.blocks(height, height - 8, left_lung=i % 3 > 0)
        noise = rng.integers(0, 6, image.shape, dtype=np.uint8)
        Image.fromarray(image // 2 + noise).save(folder / f"{i:04}.png")


def models_loaded() -> int:
    """Return how often this process has loaded a model that it was sent;
    workers import it from here."""
    from cxrseg.runtime import segmenter

    return segmenter._load.cache_info().misses
