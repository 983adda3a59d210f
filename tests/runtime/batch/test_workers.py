from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from cxrseg.runtime.batch import pool as parallel
from cxrseg.runtime.batch import process as batch
from cxrseg.runtime.batch.pool import Room, in_order
from cxrseg.runtime.batch.workers import MAX_JOBS, default_workers, threads_each
from cxrseg.runtime.readers.reading import count_pixels
from helpers.drawing import phantoms
from helpers.runs import contents, lines_of, save_chests


@pytest.mark.parametrize("which", ["tiny", "shipped"])
def test_results_are_the_same_whatever_the_number_of_jobs(
    run_cxrseg, model_file, xrays, tmp_path, which: str
) -> None:
    for seed in range(5):
        image = phantoms.draw(seed, (160 + 8 * seed, 150)).image
        Image.fromarray(image).save(xrays / f"{seed}.png")
    (xrays / "1b.png").write_bytes(b"no image")
    model = ["--model", str(model_file())] if which == "tiny" else []
    seen = []
    for jobs, threads in ((1, 2), (2, 2), (4, 1)):
        out = tmp_path / f"out{jobs}"
        options = ["--jobs", str(jobs), "--threads", str(threads), "--device", "cpu"]
        told = tmp_path / f"{jobs}.jsonl"
        result = run_cxrseg(xrays, "-o", out, "--jsonl", told, *options, *model)
        assert result.code == 1 and len(result.errors) == 1 and "1b.png" in result.err
        order = [Path(line.split(": ")[0]).stem for line in result.out.splitlines()]
        assert order == ["0", "1", "2", "3", "4"]
        assert [Path(line["source"]).stem for line in lines_of(told)] == [
            *("0", "1", "1b", "2", "3", "4")
        ]
        seen.append(contents(out))
    assert len(seen[0]) == 15
    assert seen[0] == seen[1] == seen[2]


def test_images_are_done_side_by_side(run_cxrseg, model, xrays, monkeypatch) -> None:
    save_chests(xrays, 4)
    # Two threads must be in here at once for either to go on.
    together, original = threading.Barrier(2, timeout=30), batch.read

    def read(path: Path):
        together.wait()
        return original(path)

    monkeypatch.setattr(batch, "read", read)
    result = run_cxrseg(xrays, "--jobs", "2", *model)
    assert (result.code, result.err) == (0, "")


def test_default_is_one_job_per_thread_within_reason() -> None:
    assert default_workers(images=1, threads=8) == 1
    assert default_workers(images=0, threads=8) == 1
    assert default_workers(images=100, threads=1) == 1
    assert default_workers(images=100, threads=2) == 2
    assert default_workers(images=100, threads=64) == MAX_JOBS


@pytest.mark.parametrize(
    ("threads", "workers", "each"), [(2, 2, 1), (8, 4, 5), (8, 1, 8), (1, 4, 1)]
)
def test_all_inferences_together_take_the_threads_given(threads, workers, each) -> None:
    assert threads_each(threads, workers) == each


def test_few_items_are_in_flight() -> None:
    drawn: list[int] = []

    def items():
        for i in range(100):
            drawn.append(i)
            yield i

    results = in_order(lambda item, _: item * item, items(), workers=3)
    for count, result in enumerate(results):
        assert result == count * count
        assert len(drawn) - count <= 6


def test_outcomes_come_in_order_and_as_soon_as_they_can() -> None:
    release = threading.Event()

    def work(item: int, _: Callable[[], bool]) -> int:
        if item == 1:
            assert release.wait(30)
        return item

    results = in_order(work, range(6), workers=2)
    assert next(results) == 0
    release.set()
    assert list(results) == [1, 2, 3, 4, 5]


def test_closing_starts_nothing_more_and_waits_for_what_is_in_work() -> None:
    begun, ended = [], []

    def work(item: int, interrupted: Callable[[], bool]) -> int:
        begun.append(item)
        while item > 0 and not interrupted():
            time.sleep(0.01)
        ended.append(item)
        return item

    results = in_order(work, range(50), workers=2)
    assert next(results) == 0
    results.close()
    assert len(begun) <= 4 and sorted(begun) == sorted(ended)


def test_closing_does_not_wait_for_ever(monkeypatch) -> None:
    monkeypatch.setattr(parallel, "_PATIENCE_S", 0.1)
    release = threading.Event()
    results = in_order(lambda item, _: item == 0 or release.wait(60), range(3), workers=2)
    assert next(results) is True
    results.close()  # returns although the workers hang
    release.set()


def test_room_is_shared_and_one_that_wants_more_waits_for_all_of_it() -> None:
    room, most, now = Room(10), [0], [0]
    lock = threading.Lock()

    def work(amount: int, interrupted: Callable[[], bool]) -> int:
        with room.taken(amount, interrupted):
            with lock:
                now[0] += min(amount, 10)
                most[0] = max(most[0], now[0])
            time.sleep(0.005)
            with lock:
                now[0] -= min(amount, 10)
        return amount

    amounts = [4, 4, 4, 50, 1, 10, 0, 9, 2] * 5
    assert list(in_order(work, amounts, workers=6)) == amounts
    assert 4 < most[0] <= 10


def test_who_waits_for_room_gives_up_when_interrupted() -> None:
    room = Room(1)
    with room.taken(1, lambda: False), room.taken(1, lambda: True):
        pass
    with room.taken(1, lambda: False):
        pass


def test_images_in_work_have_so_many_pixels_together(
    run_tiny, xrays: Path, tmp_path: Path, monkeypatch
) -> None:
    save_chests(xrays, 6)
    pixels = count_pixels(xrays / "0000.png")
    assert pixels > 1000
    monkeypatch.setattr("cxrseg.runtime.core.radiograph.MAX_PIXELS", 2 * pixels)
    most, now, lock = [0], [0], threading.Lock()
    original = batch.read

    def read(path: Path):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.1)
        radiograph = original(path)
        with lock:
            now[0] -= 1
        return radiograph

    monkeypatch.setattr(batch, "read", read)
    result = run_tiny(xrays, "--jobs", "4", "-o", tmp_path / "out")
    assert (result.code, len(result.out.splitlines())) == (0, 6)
    assert most[0] == 2
