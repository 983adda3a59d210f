"""Keeping two runs apart that write to the same place.

The locks are advisory and end with the process that holds them. Where the system has none, as on
Windows and some network drives, all goes on without.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

_PATIENCE_S = 5.0
_TICK_S = 0.002


def wait_for(descriptor: int, seconds: float) -> bool:
    """Take the lock of an open file, until it is closed, once somebody else has given it back.

    Returns:
        False where nobody has within these seconds.
    """
    end = monotonic() + seconds
    while not (taken := take(descriptor)) and monotonic() < end:
        sleep(_TICK_S)
    return taken


def take(descriptor: int) -> bool:
    """Take the lock of an open file, until it is closed.

    Returns:
        False where somebody else has it.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep others who ask for the same folder waiting while the block runs.

    Whoever has it puts files in their places, which takes moments. One who stopped meanwhile is
    waited for five seconds.
    """
    descriptor = None
    with suppress(OSError):  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
    if descriptor is None:
        yield
        return
    try:
        wait_for(descriptor, _PATIENCE_S)
        yield
    finally:
        os.close(descriptor)
