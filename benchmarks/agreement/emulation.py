"""``cxrseg-bench emulation``: the same masks on CPUs that this machine is not."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from cxrseg.benchmarks.agreement.masks import Pair, shares_of_images
from cxrseg.benchmarks.harness.parameters import PATH, argument, option
from cxrseg.benchmarks.harness.result import Result, Table
from cxrseg.benchmarks.harness.runner import benchmark
from cxrseg.benchmarks.speed.processes import run_process
from cxrseg.export.verify.agreement import LEAST_LUNG
from cxrseg.runtime.core.errors import CxrsegError

EMULATOR = "qemu-x86_64"

ENOUGH = 0.999
"""Least share of equal pixels on each image."""

NATIVE = "this machine"

Masks = Mapping[str, NDArray[np.uint8]]
"""Image name -> label mask [H, W]."""


@dataclass(frozen=True)
class Options:
    """Options of ``cxrseg-bench emulation``."""

    images: tuple[Path, ...] = argument(nargs=-1, type=PATH)
    model: Path | None = option(
        "--model",
        default=None,
        metavar="FILE",
        type=PATH,
        help="Model file.  [default: the one that ships with cxrseg]",
    )
    cpus: tuple[str, ...] = option(
        "--cpu",
        default=("Haswell", "Nehalem"),
        multiple=True,
        help="CPU model of qemu; Haswell has AVX2 but no VNNI, Nehalem neither.",
    )


@benchmark("emulation", Options)
def emulation(options: Options) -> Result:
    """Compare masks of emulated older CPUs with those of this machine.

    IMAGES are X-rays of different names. Each CPU runs cxrseg-run under qemu-user (Debian's
    package qemu-user, Linux on x86-64 alone). Exit code 1 where an image's masks agree on less
    than 99.9 % of its pixels.
    """
    if shutil.which(EMULATOR) is None:
        raise CxrsegError(EMULATOR, "is not installed", "apt-get install qemu-user")
    native = masks(options.images, options.model)
    pairs = [
        compare(cpu, masks(options.images, options.model, (EMULATOR, "-cpu", cpu)), native)
        for cpu in tqdm(options.cpus, unit="CPU", leave=False, disable=None)
    ]
    rows = [
        [pair.first, str(len(pair.shares)), f"{pair.mean:.6f}", f"{pair.worst:.6f}"]
        for pair in pairs
    ]
    return Result(
        title="Emulated CPUs",
        data={"comparisons": [{"cpu": pair.first, **pair.figures()} for pair in pairs]},
        tables=[Table(["emulated CPU", "images", "mean agreement", "worst image"], rows)],
        images=shares_of_images(pairs),
        passed=all(pair.worst >= ENOUGH for pair in pairs),
    )


def masks(images: Sequence[Path], model: Path | None, emulator: Sequence[str] = ()) -> Masks:
    """Run ``cxrseg-run`` in a process of its own, as an operator would.

    Args:
        images: X-rays of different names.
        model: Model file; None for the shipped one.
        emulator: Command in front of the interpreter.

    Raises:
        CxrsegError: The command failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        words = [*emulator, sys.executable, "-P", "-m", "cxrseg.runtime.cli", *map(str, images)]
        words += ["--device", "cpu", "--threads", "1", "-o", folder]
        words += [] if model is None else ["--model", str(model)]
        run_process(words, " ".join(emulator) or NATIVE)
        found = {}
        for image in images:
            with Image.open(Path(folder) / f"{image.stem}_lungs.png") as file:
                found[image.name] = np.array(file)
        return found


def compare(cpu: str, emulated: Masks, native: Masks) -> Pair:
    """Compare the masks of an emulated CPU with this machine's."""
    shares = tuple((name, float(np.mean(emulated[name] == native[name]))) for name in native)
    with_lungs = sum(np.mean(mask > 0) >= LEAST_LUNG for mask in native.values())
    return Pair(cpu, NATIVE, shares, int(with_lungs))
