"""``cxrseg-bench startup``: what a cold ``cxrseg-run`` of one image takes, as a whole process."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from cxrseg.benchmarks.harness.legacy_options import output_option
from cxrseg.benchmarks.speed.latency import bar, distribution, interleaved
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.terminal.console import echo

IMPORTS = "import numpy, cv2, onnxruntime"
"""What the process that `cxrseg-run` is compared with does: no image tool on these does less."""

SUBJECTS = (f"python -c '{IMPORTS}'", "cxrseg-run IMAGE")

WARMUP = 2
"""Runs of each that do not count: one for the memory, one in turn."""

_PATH = click.Path(path_type=Path)


def program() -> list[str]:
    """Return the words that start ``cxrseg-run`` of this installation."""
    script = Path(sys.executable).with_name("cxrseg-run")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "cxrseg.runtime.cli"]


def run_once(words: Sequence[str]) -> str:
    """Run a process to its end and return what it prints.

    Raises:
        CxrsegError: It failed.
    """
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        told = done.stderr.strip().splitlines() or ["no message"]
        raise CxrsegError(
            "the process to measure", f"failed ({told[-1][:200]})", "run it alone to see more"
        )
    return done.stdout


def peak_memory(words: Sequence[str]) -> int | None:
    """Run a process and return its largest resident set in bytes; None on Windows.

    It is started by a small process, because it would inherit the peak of a large one.

    Raises:
        CxrsegError: It failed.
    """
    if find_spec("resource") is None:
        return None
    code = (
        "import resource, subprocess, sys\n"
        "code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "sys.exit(code)"
    )
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * int(run_once([sys.executable, "-I", "-c", code, *words]))


def measure(
    image: Path, model: Path | None, runs: int, seed: int, step: Any = lambda: None
) -> list[dict[str, Any]]:
    """Time both processes in turn.

    Args:
        image: The X-ray.
        model: Model file; None = the one that ships with the package.
        runs: Runs of each that count, after `WARMUP` that do not.
        seed: Seed of the order.
        step: Called ``2 * (runs + 1)`` times in all.

    Returns:
        For each of `SUBJECTS` its wall time in ms, peak memory in bytes, and both relative to the
        first.

    Raises:
        CxrsegError: One fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        segment = [*program(), str(image), "-o", folder]
        segment += [] if model is None else ["--model", str(model)]
        lines = ([sys.executable, "-c", IMPORTS], segment)
        peaks = [peak_memory(words) for words in lines]
        # Nothing of this process computes meanwhile, so that there is nothing to wait for.
        rounds = interleaved(
            [partial(run_once, words) for words in lines],
            runs,
            WARMUP - 1,
            seed,
            step,
            rest=lambda: None,
        )
    walls = [distribution(samples) for samples in rounds.samples]
    return [
        {
            "title": title,
            "wall_ms": wall,
            "relative": round(wall["median"] / walls[0]["median"], 3),
            "peak_memory_bytes": peak,
        }
        for title, wall, peak in zip(SUBJECTS, walls, peaks, strict=True)
    ]


@click.command("startup")
@click.argument("image", type=_PATH)
@click.option(
    "--model", metavar="FILE", type=_PATH, help="Model file.  [default: the one that ships]"
)
@click.option(
    "--runs",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="Runs of each process that count.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Seed of the order.",
)
@output_option
@click.pass_context
def command(
    context: click.Context,
    image: Path,
    model: Path | None,
    runs: int,
    seed: int,
    output: Path | None,
) -> None:
    """Measure what a cold cxrseg-run of one IMAGE takes, start to end.

    The whole process is timed, in turn with one that only imports NumPy, OpenCV and ONNX Runtime,
    after two runs of each that do not count: files are in the system's cache by then.

    \b
    Example
      cxrseg-bench startup chest.png -o startup.json
    """
    # Imported here, so that --help answers at once.
    from cxrseg.benchmarks.harness.legacy_record import (
        check_output,
        command_line,
        environment,
        now,
        table,
        write_record,
        written,
    )
    from cxrseg.runtime.models import default_model
    from cxrseg.runtime.readers import read

    if output is not None:
        check_output(output)
    if not image.is_file():
        raise CxrsegError(image, "no such file", "give one X-ray")
    height, width = read(image).size
    file = model or default_model()
    try:
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        cause = f"cannot be read ({error.strerror})"
        raise CxrsegError(file, cause, "check the path of the model") from None
    date = now()
    with bar(2 * (runs + 1)) as step:
        found = measure(image, model, runs, seed, step)
    page = table(
        ["process", "wall ms", "5th pct.", "95th pct.", "relative", "peak MB"],
        [_row(each) for each in found],
    )
    for line in page.split("\n"):
        echo(line)
    if output is None:
        return
    record = {
        "command": command_line(context),
        "date": date,
        **environment(),
        "model": {"file": file.name, "sha256": sha256},
        "image": {"height": height, "width": width},
        "settings": {"runs": runs, "warmup": WARMUP},
        "seed": seed,
        "processes": found,
    }
    write_record(output, "startup", record, _markdown(record, page))
    echo(written(output))


def _row(process: Mapping[str, Any]) -> list[str]:
    wall, peak = process["wall_ms"], process["peak_memory_bytes"]
    return [
        process["title"],
        *(f"{wall[name]:.0f}" for name in ("median", "p5", "p95")),
        f"{process['relative']:.2f}",
        "-" if peak is None else f"{peak / 1e6:.0f}",
    ]


def _markdown(record: Mapping[str, Any], page: str) -> str:
    from cxrseg.benchmarks.harness.legacy_record import circumstances

    return "\n\n".join(
        [
            "# Startup",
            f"`{record['command']}`",
            f"{circumstances(record)}; model SHA-256 `{record['model']['sha256']}`; seed "
            f"{record['seed']}.",
            f"Wall time of whole processes, an image of {record['image']['height']} x "
            f"{record['image']['width']} px, {record['settings']['runs']} runs of each in shuffled "
            f"turns, after {record['settings']['warmup']} that are dropped. Relative: median "
            "divided by that of the first. Peak: largest resident set.",
            page,
        ]
    )
