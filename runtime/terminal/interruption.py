"""What ends a command from outside."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_ENDING = ("SIGTERM", "SIGHUP", "SIGBREAK")


@dataclass
class _State:
    """What has come in; of the main thread, which alone gets signals.

    Attributes:
        received: Whether a signal has come.
        held: Whether it has to wait.
        waits: Whether one waits.
    """

    received: bool = False
    held: bool = False
    waits: bool = False


_state = _State()


@contextmanager
def ended_in_good_order() -> Iterator[None]:
    """Let SIGTERM, SIGHUP and Windows' Ctrl-Break do what Ctrl-C does: raise KeyboardInterrupt.

    They come from service managers, from a terminal that is closed and a connection that is lost,
    often several at once; so after the first only Ctrl-C counts, by which a person insists. One
    that is ignored, as ``nohup`` has it, stays ignored. Only the main thread may use this.
    """
    numbers = [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]
    usual = {signal.SIGINT: signal.default_int_handler, **dict.fromkeys(numbers, signal.SIG_DFL)}
    mine = {number: x for number, x in usual.items() if signal.getsignal(number) == x}
    _state.received = _state.held = _state.waits = False
    for number in mine:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in mine.items():
            signal.signal(number, handler)


def interrupted() -> bool:
    """Tell whether the command is to end, even if a library swallowed the KeyboardInterrupt."""
    return _state.received


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a short block be completed first: a file that is put in place, imports, the use of locks.

    Raises:
        KeyboardInterrupt: At its end, where a signal came meanwhile.
    """
    outer, _state.held = _state.held, True
    try:
        yield
    finally:
        _state.held = outer
    if _state.waits and not outer:
        _state.waits = False
        raise KeyboardInterrupt


def _end(number: int, frame: FrameType | None) -> None:
    again, _state.received = _state.received, True
    if again and number != signal.SIGINT:
        return
    if _state.held:
        _state.waits = True
        return
    raise KeyboardInterrupt
