"""``cxrseg-bench emulation``: the same masks on CPUs that this machine is not."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrseg.benchmarks.harness.legacy_options import output_option
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.terminal.console import FAILED, OK, echo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EMULATOR = "qemu-x86_64"

ENOUGH = 0.999
"""Least share of equal pixels on each image."""

NATIVE = "this machine"


@dataclass(frozen=True)
class Comparison:
    """Masks of an emulated CPU against those of this machine.

    Attributes:
        cpu: qemu's name of the CPU.
        agreement: Image name -> share of pixels with the same label.
    """

    cpu: str
    agreement: dict[str, float]

    @property
    def mean(self) -> float:
        """Mean over images."""
        return sum(self.agreement.values()) / len(self.agreement)

    @property
    def worst(self) -> float:
        """Lowest share over images."""
        return min(self.agreement.values())


def masks(
    images: Sequence[Path], model: Path | None, emulator: Sequence[str] = ()
) -> dict[str, NDArray[np.uint8]]:
    """Run ``cxrseg-run`` in a process of its own, as an operator would.

    Args:
        images: X-rays of different names.
        model: Model file; None for the shipped one.
        emulator: Command in front of the interpreter.

    Returns:
        Image name -> label mask uint8 [H, W].

    Raises:
        CxrsegError: The command failed.
    """
    import numpy as np
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        options = ["--device", "cpu", "--threads", "1", "-o", folder]
        if model is not None:
            options += ["--model", str(model)]
        done = subprocess.run(
            [*emulator, sys.executable, "-m", "cxrseg.runtime.cli", *options, *map(str, images)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise CxrsegError(" ".join(emulator) or NATIVE, lines[-1])
        found = {}
        for image in images:
            with Image.open(Path(folder) / f"{image.stem}_lungs.png") as file:
                found[image.name] = np.array(file)
        return found


def compare(
    cpu: str, found: dict[str, NDArray[np.uint8]], native: dict[str, NDArray[np.uint8]]
) -> Comparison:
    """Compare the masks of an emulated CPU with this machine's."""
    import numpy as np

    return Comparison(cpu, {name: float(np.mean(found[name] == native[name])) for name in native})


@click.command("emulation")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Model file.  [default: the one that ships with cxrseg]",
)
@click.option(
    "--cpu",
    "cpus",
    multiple=True,
    default=("Haswell", "Nehalem"),
    show_default=True,
    help="CPU model of qemu; Haswell has AVX2 but no VNNI, Nehalem neither.",
)
@output_option
@click.pass_context
def command(
    context: click.Context,
    images: tuple[Path, ...],
    model: Path | None,
    cpus: tuple[str, ...],
    output: Path | None,
) -> int:
    """Compare masks of emulated older CPUs with those of this machine.

    IMAGES are X-rays of different names. Each CPU runs cxrseg-run under qemu-user (Debian's
    package qemu-user, Linux on x86-64 alone). Exit code 1 where an image's masks agree on less
    than 99.9 % of its pixels.
    """
    from cxrseg.benchmarks.harness.legacy_record import (
        check_output,
        command_line,
        environment,
        now,
        table,
        write_record,
    )

    if shutil.which(EMULATOR) is None:
        raise CxrsegError(EMULATOR, "is not installed", "apt-get install qemu-user")
    if output is not None:
        check_output(output)
    date, native = now(), masks(images, model)
    comparisons = []
    for cpu in cpus:
        echo(f"cxrseg-bench: emulating {cpu} ...", err=True)
        comparisons.append(compare(cpu, masks(images, model, (EMULATOR, "-cpu", cpu)), native))
    text = table(
        ["emulated CPU", "images", "mean agreement", "worst image"],
        [[c.cpu, str(len(c.agreement)), f"{c.mean:.6f}", f"{c.worst:.6f}"] for c in comparisons],
    )
    for line in text.split("\n"):
        echo(line)
    if output is not None:
        record: dict[str, Any] = {
            "command": command_line(context),
            "date": date,
            **environment(),
            "comparisons": [asdict(c) for c in comparisons],
        }
        write_record(output, "emulation", record, f"# Emulated CPUs\n\n{text}")
        echo(f"written: {output}, {output.with_suffix('.md')}")
    return OK if all(c.worst >= ENOUGH for c in comparisons) else FAILED
