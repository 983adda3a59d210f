"""Running whole processes to their end, and telling how much memory they took.

It imports little, because `segment_once` is the body of a process whose memory is measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import Protocol

_STARTER = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""

_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024


def run_process(
    words: Sequence[str], subject: str | os.PathLike[str], stdin: bytes | None = None
) -> str:
    """Run a process to its end and return what it prints.

    Args:
        words: The command line.
        subject: How an error calls what is run.
        stdin: What the process reads; None = nothing.

    Raises:
        CxrsegError: It failed.
    """
    done = subprocess.run(words, input=stdin or b"", capture_output=True, check=False)
    if done.returncode != 0:
        told = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        cause = f"failed in a process of its own ({told[-1][:200]})"
        raise CxrsegError(subject, cause, "run it alone to see more")
    return done.stdout.decode(errors="replace")


def peak_memory(
    words: Sequence[str], subject: str | os.PathLike[str], stdin: bytes | None = None
) -> int | None:
    """Run a process and return its largest resident set; arguments as in `run_process`.

    A small process starts it, because it would inherit the peak of a large one.

    Returns:
        Bytes, Python and its libraries included, memory of a graphics card not; None on systems
        that do not tell (Windows).

    Raises:
        CxrsegError: It failed.
    """
    if find_spec("resource") is None:
        return None
    told = run_process([sys.executable, "-I", "-c", _STARTER, *words], subject, stdin)
    return _MAXRSS_BYTES * int(told)


def peak_memory_of_model(
    model: Path, device: str, threads: int, protocol: Protocol, image: NDArray[np.uint8]
) -> int | None:
    """Return the peak memory of a process that loads a model and segments one image.

    Args:
        model: A model file of cxrseg.
        device: One of `devices.DEVICES`.
        threads: CPU threads.
        protocol: What is segmented.
        image: uint8 [H, W].

    Returns:
        As `peak_memory`.

    Raises:
        CxrsegError: The process failed.
    """
    code = f"from {__name__} import segment_once; segment_once()"
    args = [model.absolute(), device, threads, protocol, *image.shape]
    # -P: no module is taken from the folder that the user happens to be in.
    words = [sys.executable, "-P", "-c", code, *map(str, args)]
    return peak_memory(words, model, image.tobytes())


def segment_once() -> None:
    """Be the process that `peak_memory_of_model` starts; the image comes on stdin."""
    from cxrseg.runtime.segmenter import Segmenter

    model, device, threads, protocol, height, width = sys.argv[1:]
    pixels = np.frombuffer(sys.stdin.buffer.read(), np.uint8).reshape(int(height), int(width))
    Segmenter(model, device, int(threads), cast(Protocol, protocol)).segment(pixels)
