"""Keeping libraries' own notes off standard error, and our lines on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import RLock

STDERR = RLock()
"""Held while standard error leads nowhere; who writes to it takes it, or the line may be lost."""


@contextmanager
def quiet() -> Iterator[None]:
    """Lead the process's standard error nowhere, for compiled libraries that write to it.

    For what they tell in an exception as well. It is the whole process's: one thread at a time.
    """
    with STDERR, ExitStack() as stack:
        # A program without a console has no standard error.
        with suppress(OSError):
            kept = os.dup(2)
            stack.callback(os.close, kept)
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            stack.callback(os.dup2, kept, 2)
        yield
