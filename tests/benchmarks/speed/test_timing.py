"""Taking turns, resting between runs, and what is kept of the times."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cxrseg.benchmarks.speed.timing import Schedule, distribution, interleaved, settle


def test_interleaving(capfd: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    calls: list[int] = []
    pauses: list[int] = []

    def advance(seconds: float) -> None:
        nonlocal now
        now += seconds

    def subject(index: int) -> Callable[[], object]:
        def run() -> None:
            calls.append(index)
            # The n-th run of subject i takes (10 i + n) ms.
            advance((10 * index + calls.count(index)) / 1000)

        return run

    def rest() -> None:
        pauses.append(len(calls))
        advance(7)

    times = interleaved([subject(i) for i in range(3)], Schedule(4, 2, seed=0), lambda: now, rest)
    assert len(calls) == 18
    rounds = [calls[start : start + 3] for start in range(0, 18, 3)]
    assert all(sorted(each) == [0, 1, 2] for each in rounds), "each function once in every round"
    assert len({tuple(each) for each in rounds}) > 1, "in changing order"
    # The first two of each are the warm-up; rests count for nothing.
    expected = [[10 * index + n for n in (3, 4, 5, 6)] for index in range(3)]
    np.testing.assert_allclose(times, expected, atol=1e-6)
    assert pauses == list(range(18))
    assert capfd.readouterr() == ("", ""), "no bar without a terminal"


def test_order_follows_from_the_seed() -> None:
    def order(seed: int) -> list[int]:
        calls: list[int] = []
        runs = [lambda i=i: calls.append(i) for i in range(2)]  # type: ignore[misc]
        interleaved(runs, Schedule(8, 1, seed), rest=lambda: None)
        return calls

    assert order(1) == order(1) != order(2)


@pytest.mark.parametrize(("spinning", "least"), [(0.0, 0.03), (0.5, 0.5), (60.0, 1.9)])
def test_rest_ends_when_the_threads_do(spinning: float, least: float) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    settle(lambda: now, lambda: min(now, spinning), sleep)
    assert least <= now <= least + 0.2


def test_distribution_by_hand() -> None:
    times = [float(n) for n in range(101)]
    assert distribution([*times, 1e6]) == {"median": 50.5, "p5": 5.05, "p95": 95.95}
    assert distribution([1.23456]) == {"median": 1.235, "p5": 1.235, "p95": 1.235}
