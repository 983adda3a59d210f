"""``cxrseg-bench startup``: what a cold ``cxrseg-run`` of one image takes, as a whole process."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from cxrseg.benchmarks.harness.options import SeedOptions
from cxrseg.benchmarks.harness.parameters import PATH, argument, option
from cxrseg.benchmarks.harness.result import Result, Table
from cxrseg.benchmarks.harness.runner import benchmark
from cxrseg.benchmarks.speed.processes import cxrseg_run, peak_memory, run_process
from cxrseg.benchmarks.speed.timing import Schedule, distribution, interleaved
from cxrseg.runtime.files.digest import sha256_of
from cxrseg.runtime.models import default_model
from cxrseg.runtime.readers import read

IMPORTS = "import numpy, cv2, onnxruntime"
"""What the process that `cxrseg-run` is compared with does: no image tool on these does less."""

WARMUP = 2
"""Runs of each that do not count: one for the memory, one in turn."""


@dataclass(frozen=True)
class Options(SeedOptions):
    """Options of ``cxrseg-bench startup``."""

    image: Path = argument(type=PATH)
    model: Path | None = option(
        "--model",
        default=None,
        metavar="FILE",
        type=PATH,
        help="Model file.  [default: the one that ships]",
    )
    runs: int = option(
        "--runs",
        default=20,
        metavar="N",
        type=click.IntRange(1, 1000),
        help="Runs of each process that count.",
    )


@benchmark("startup", Options)
def startup(options: Options) -> Result:
    """Measure what a cold cxrseg-run of one IMAGE takes, start to end.

    The whole process is timed, in turn with one that only imports NumPy, OpenCV and ONNX Runtime.
    Two runs of each do not count: after them, files are in the system's cache.

    \b
    Example
      cxrseg-bench startup chest.png -o startup.json
    """
    height, width = read(options.image).size
    processes = measure(options.image, options.model, options.runs, options.seed)
    model = options.model or default_model()
    return Result(
        title="Startup",
        data={
            "model": {
                "file": model.name,
                "sha256": sha256_of(model),
            },
            "image": {"height": height, "width": width},
            "settings": {"runs": options.runs, "warmup": WARMUP},
            "processes": processes,
        },
        tables=[
            Table(
                ["process", "wall ms", "5th pct.", "95th pct.", "relative", "peak MB"],
                [_row(process) for process in processes],
            )
        ],
        definitions=f"Wall time of whole processes, an image of {height} x {width} px,"
        f" {options.runs} runs of each in shuffled turns, after {WARMUP} that are dropped."
        " Relative: median divided by that of the first. Peak: largest resident set.",
    )


def measure(image: Path, model: Path | None, runs: int, seed: int) -> list[dict[str, Any]]:
    """Time the bare imports and ``cxrseg-run`` in turn.

    Args:
        image: The X-ray.
        model: Model file; None = the one that ships with the package.
        runs: Runs of each that count, after `WARMUP` that do not.
        seed: Seed of the order.

    Returns:
        For both processes wall time in ms, the median relative to that of the bare imports, and
        peak memory in bytes.

    Raises:
        CxrsegError: One fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        named = [] if model is None else ["--model", str(model)]
        processes = {
            f"python -c '{IMPORTS}'": [sys.executable, "-c", IMPORTS],
            "cxrseg-run IMAGE": [*cxrseg_run(), str(image), "-o", folder, *named],
        }
        peaks = [peak_memory(words, title) for title, words in processes.items()]
        times = interleaved(
            [partial(run_process, words, title) for title, words in processes.items()],
            Schedule(runs, WARMUP - 1, seed),
            # Nothing of this process computes meanwhile, so that there is nothing to wait for.
            rest=lambda: None,
        )
    walls = [distribution(each) for each in times]
    return [
        {
            "title": title,
            "wall_ms": wall,
            "relative": round(wall["median"] / walls[0]["median"], 3),
            "peak_memory_bytes": peak,
        }
        for title, wall, peak in zip(processes, walls, peaks, strict=True)
    ]


def _row(process: Mapping[str, Any]) -> list[str]:
    wall, peak = process["wall_ms"], process["peak_memory_bytes"]
    return [
        process["title"],
        *(f"{wall[name]:.0f}" for name in ("median", "p5", "p95")),
        f"{process['relative']:.2f}",
        "-" if peak is None else f"{peak / 1e6:.0f}",
    ]
