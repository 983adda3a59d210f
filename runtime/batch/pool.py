"""Several items in work at once, outcomes in order, and a prompt end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Condition, Event
from time import monotonic
from typing import Any, TypeVar

from cxrseg.runtime.terminal.interruption import uninterrupted

Item = TypeVar("Item")
Result = TypeVar("Result")

_TICK_S = 0.2
_PATIENCE_S = 10.0


def in_order(
    function: Callable[[Item, Callable[[], bool]], Result], items: Iterable[Item], workers: int
) -> Generator[Result, None, None]:
    """Apply a function to items in threads.

    At most `workers` items are in work, and as many again are done or wait. Closing the iterator,
    or an exception where its results are used (Ctrl-C among them), starts nothing more and waits
    for what is in work, ten seconds at most.

    Args:
        function: Takes an item, and a function that says whether to give up.
        items: What to do; drawn from as there is room.
        workers: Number of threads.

    Yields:
        Results in the order of the items, each as soon as it and those before it are known.
    """
    stop = Event()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="cxrseg")
    futures: deque[Future[Result]] = deque()
    try:
        for item in items:
            # Here and below: an interruption between two steps of a lock would break it.
            with uninterrupted():
                futures.append(pool.submit(function, item, stop.is_set))
            while futures and (len(futures) >= 2 * workers or _are_done(futures[0])):
                yield _result(futures)
        while futures:
            yield _result(futures)
    finally:
        with uninterrupted():
            stop.set()
            for future in futures:
                future.cancel()
        # Not the pool's own waiting, which has no end where a network drive hangs.
        end = monotonic() + _PATIENCE_S
        while not _are_done(*futures, within_s=_TICK_S) and monotonic() < end:
            pass
        pool.shutdown(wait=False)


class Room:
    """What items in work may take together, in whatever unit.

    Args:
        size: How much there is. An item that wants more waits until it has all of it.
    """

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._change = Condition()

    @contextmanager
    def taken(self, amount: int, interrupted: Callable[[], bool]) -> Iterator[None]:
        """Wait until there is room, and hold it during the block; at once if `interrupted`."""
        amount = min(amount, self._size)
        with self._change:
            while self._free < amount and not interrupted():
                self._change.wait(_TICK_S)
            self._free -= amount
        try:
            yield
        finally:
            with self._change:
                self._free += amount
                self._change.notify_all()


def _result(futures: deque[Future[Result]]) -> Result:
    # In ticks, because Windows delivers no Ctrl-C to a thread that waits without end.
    while not _are_done(futures[0], within_s=_TICK_S):
        pass
    return futures.popleft().result()


def _are_done(*futures: Future[Any], within_s: float = 0) -> bool:
    """Tell whether all have ended, waiting for them so long."""
    with uninterrupted():
        return not wait(futures, within_s).not_done
