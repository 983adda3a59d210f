"""What ends a command from outside."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = ("SIGTERM", "SIGHUP", "SIGBREAK")


@contextmanager
def ended_in_good_order() -> Iterator[None]:
    """Let SIGTERM, SIGHUP and Windows' Ctrl-Break do what Ctrl-C does: raise KeyboardInterrupt.

    They come from service managers, from a terminal that is closed and a connection that is lost,
    often several at once; so after the first the others do nothing. One that is ignored, as
    ``nohup`` has it, stays ignored. Only the main thread may use this.
    """
    numbers = [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    mine = [number for number, handler in before.items() if handler == signal.SIG_DFL]

    def end(number: int, frame: FrameType | None) -> None:
        for each in mine:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in mine:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number])
