"""Timing several functions in turn, so that disturbances of the machine hit all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

Run = Callable[[], object]
Clock = Callable[[], float]

_WINDOW_S = 0.02
_QUIET_WINDOWS = 2
_QUIET_SHARE = 0.2
_MAX_REST_S = 2.0

_US = 3


@dataclass(frozen=True)
class Schedule:
    """How often functions take their turn, and in which order.

    Attributes:
        rounds: Number of rounds that count.
        warmup: Number of rounds before them that do not.
        seed: Seed of the orders.
    """

    rounds: int
    warmup: int
    seed: int


def interleaved(
    runs: Sequence[Run],
    schedule: Schedule,
    clock: Clock = time.perf_counter,
    rest: Run | None = None,
) -> list[list[float]]:
    """Time several functions in turn, with a progress bar on a terminal.

    Every round calls each function once, in an order that is shuffled anew.

    Args:
        runs: What to time.
        schedule: The rounds.
        clock: Returns the time in s.
        rest: Called before each run, outside of its time; None = `settle`.

    Returns:
        For each function, one time in ms per round that counts.
    """
    rng = np.random.default_rng(schedule.seed)
    warmup = schedule.warmup
    times: list[list[float]] = [[] for _ in runs]
    for number in tqdm(range(warmup + schedule.rounds), unit="round", leave=False, disable=None):
        for index in rng.permutation(len(runs)):
            (rest or settle)()
            start = clock()
            kept = runs[index]()
            elapsed = clock() - start
            # Not before the clock was read: to free a session takes time.
            del kept
            if number >= warmup:
                times[index].append(1000 * elapsed)
    return times


def settle(
    clock: Clock = time.perf_counter,
    busy: Clock = time.process_time,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Wait until no thread of this process computes, 2 s at most.

    ONNX Runtime's threads spin for a while after an inference, up to a second on some CPUs, and
    those of one model would take the cores from the next.

    Args:
        clock: Returns the time in s.
        busy: Returns the CPU time of this process in s.
        sleep: Waits for a time in s.
    """
    end = clock() + _MAX_REST_S
    quiet = 0
    while quiet < _QUIET_WINDOWS and clock() < end:
        start, used = clock(), busy()
        sleep(_WINDOW_S)
        idle = busy() - used < _QUIET_SHARE * (clock() - start)
        quiet = quiet + 1 if idle else 0


def median(times: Sequence[float]) -> float:
    """Return the median of times in ms, to the microsecond."""
    return round(float(np.median(times)), _US)


def distribution(times: Sequence[float]) -> dict[str, float]:
    """Return ``median`` and the percentiles ``p5`` and ``p95`` of times in ms."""
    p5, p95 = (round(float(value), _US) for value in np.percentile(times, (5, 95)))
    return {"median": median(times), "p5": p5, "p95": p95}
