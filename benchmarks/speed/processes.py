"""Running whole processes to their end, and telling how much memory they took."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from cxrseg.runtime.core.errors import CxrsegError

_STARTER = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""

_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024


def run_process(words: Sequence[str], subject: str | os.PathLike[str]) -> str:
    """Run a process to its end and return what it prints.

    Args:
        words: The command line.
        subject: How an error calls what is run.

    Raises:
        CxrsegError: It failed.
    """
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    if done.returncode != 0:
        told = done.stderr.strip().splitlines() or ["no message"]
        cause = f"failed in a process of its own ({told[-1][:200]})"
        raise CxrsegError(subject, cause, "run it alone to see more")
    return done.stdout


def peak_memory(words: Sequence[str], subject: str | os.PathLike[str]) -> int | None:
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
    told = run_process([sys.executable, "-I", "-c", _STARTER, *words], subject)
    return _MAXRSS_BYTES * int(told)


def cxrseg_run() -> list[str]:
    """Return the words that start ``cxrseg-run`` of this installation."""
    script = Path(sys.executable).with_name("cxrseg-run")
    # -P: no module is taken from the folder that the user happens to be in.
    module = [sys.executable, "-P", "-m", "cxrseg.runtime.cli"]
    return [str(script)] if script.is_file() else module
