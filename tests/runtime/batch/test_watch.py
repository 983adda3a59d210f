"""A folder that fills: ``cxrseg-run --watch``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest

from cxrseg.runtime import CxrsegError
from cxrseg.runtime.core import errors
from cxrseg.runtime.readers.folders import ImageFile

watch = pytest.importorskip("cxrseg.runtime.batch.watch", reason="needs the extra watch")

SETTLE_S = 0.3
PATIENCE_S = 20.0
MAIN = "from cxrseg.runtime.cli import program; program()"


class Ended(Exception):
    """Ends a watcher from outside."""


class Given:
    """A watcher in a thread of its own, and what it has given."""

    def __init__(self, folders: list[Path], ended: threading.Event, **options: object) -> None:
        self.told: list[CxrsegError] = []
        self._queue: SimpleQueue[ImageFile] = SimpleQueue()
        self._ended = ended
        watcher = watch.Watcher(folders, report=self.told.append, settle_s=SETTLE_S, **options)
        self._thread = threading.Thread(target=self._run, args=(watcher,), daemon=True)
        self._thread.start()

    def _run(self, watcher: watch.Watcher) -> None:
        try:
            for batch in watcher.batches():
                for found in batch:
                    self._queue.put(found)
        except Ended:
            pass

    def names(self, count: int) -> set[str]:
        """Wait for so many images; return their paths below their folder."""
        got = [self._queue.get(timeout=PATIENCE_S) for _ in range(count)]
        return {(found.subfolder / found.path.name).as_posix() for found in got}

    def nothing(self) -> bool:
        """Tell whether no image comes for a while."""
        try:
            self._queue.get(timeout=3 * SETTLE_S)
        except Empty:
            return True
        return False

    def end(self) -> None:
        self._ended.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


Start = Callable[..., Given]


@pytest.fixture
def start(monkeypatch) -> Iterator[Start]:
    """Start watchers of folders; end them with the test."""
    ended, running = threading.Event(), []

    def nap(seconds: float) -> None:
        if ended.is_set():
            raise Ended
        time.sleep(0.02)

    monkeypatch.setattr(watch, "sleep", nap)
    monkeypatch.setattr(watch, "POLL_S", 0.2)

    def begin(*folders: Path, **options: object) -> Given:
        running.append(Given(list(folders), ended, **options))
        return running[-1]

    yield begin
    for each in running:
        each.end()


@pytest.mark.parametrize("poll", [False, True])
def test_what_is_there_and_what_arrives_is_given_once(
    start, save_chest, xrays, tmp_path, poll: bool
) -> None:
    save_chest(xrays / "old.png")
    save_chest(xrays / "sub" / "old.jpg")
    given = start(xrays, poll=poll)
    assert given.names(2) == {"old.png", "sub/old.jpg"}
    save_chest(xrays / "new.png")
    save_chest(xrays / "made" / "deep" / "new.png")
    save_chest(tmp_path / "study" / "moved.png")
    (tmp_path / "study").rename(xrays / "study")
    assert given.names(3) == {"new.png", "made/deep/new.png", "study/moved.png"}
    save_chest(xrays / "old.png", left_lung=False)
    assert given.names(1) == {"old.png"}
    assert given.nothing() and given.told == []


def test_file_that_grows_is_given_when_it_is_whole(start, save_chest, xrays, tmp_path) -> None:
    whole = save_chest(tmp_path / "x.png").read_bytes()
    given = start(xrays)
    with (xrays / "x.png").open("wb") as file:
        step = len(whole) // 40
        for i in range(0, len(whole), step):
            file.write(whole[i : i + step])
            file.flush()
            time.sleep(SETTLE_S / 15)
    assert given.names(1) == {"x.png"}
    assert (xrays / "x.png").read_bytes() == whole and given.nothing()


def test_temporary_names_wait_until_they_are_renamed(start, save_chest, xrays, tmp_path) -> None:
    seed = save_chest(tmp_path / "x.png")
    given = start(xrays)
    for name in ("a.png.part", "b.tmp", "c.png~", ".d.png.Xy12", ".e.png"):
        shutil.copy(seed, xrays / name)
    for name in ("g.dcm.part", "h.tmp", "i.dcm~", "j.CRDOWNLOAD"):
        (xrays / name).write_bytes(bytes(128) + b"DICM" + bytes(9))  # known by its content
    (xrays / ".hidden").mkdir()
    shutil.copy(seed, xrays / ".hidden" / "f.png")
    assert given.nothing()
    (xrays / "a.png.part").rename(xrays / "a.png")
    (xrays / "g.dcm.part").rename(xrays / "g")
    assert given.names(2) == {"a.png", "g"} and given.nothing()


def test_own_outputs_are_not_given(start, save_chest, xrays, tmp_path) -> None:
    seed = save_chest(tmp_path / "x.png")
    given = start(xrays)
    for name in ("x_lungs.png", "x_overlay.png", "x_lungs.dcm", "x_overlay.dcm", "x.json"):
        shutil.copy(seed, xrays / name)
    assert given.nothing()


def test_what_did_not_change_is_not_given_again(start, xrays) -> None:
    (xrays / "bad.png").write_bytes(b"no image")
    given = start(xrays, list_s=0.1)
    assert given.names(1) == {"bad.png"} and given.nothing()
    (xrays / "bad.png").open("r+b").close()  # opened for writing, and left as it is
    assert given.nothing()
    (xrays / "bad.png").write_bytes(b"no image again")
    assert given.names(1) == {"bad.png"}


@pytest.mark.parametrize("why", ["empty", "locked"])
def test_file_that_cannot_be_read_yet_is_waited_for(
    start, save_chest, xrays, monkeypatch, why: str
) -> None:
    original, locked = watch._is_readable, threading.Event()
    if why == "empty":
        (xrays / "x.png").touch()
    else:
        # As Windows does while another program writes.
        save_chest(xrays / "x.png")
        locked.set()
        readable = lambda path: not locked.is_set() and original(path)  # noqa: E731
        monkeypatch.setattr(watch, "_is_readable", readable)
    given = start(xrays)
    assert given.nothing()
    locked.clear()
    save_chest(xrays / "x.png")
    assert given.names(1) == {"x.png"}


def test_file_that_stays_unreadable_is_given_in_the_end(start, xrays, monkeypatch) -> None:
    monkeypatch.setattr(watch, "LOCKED_S", 2 * SETTLE_S)
    (xrays / "x.png").touch()
    given = start(xrays)
    assert given.names(1) == {"x.png"} and given.nothing()


def test_what_the_system_does_not_tell_is_found_by_listing(
    start, save_chest, xrays, monkeypatch
) -> None:
    monkeypatch.setattr(watch._Handler, "on_any_event", lambda self, event: None)
    given = start(xrays, list_s=0.2)
    assert given.nothing()
    save_chest(xrays / "x.png")
    assert given.names(1) == {"x.png"}


def test_without_notice_of_changes_the_folder_is_polled(
    start, save_chest, xrays, monkeypatch
) -> None:
    class NoObserver(watch.PollingObserver):
        def start(self) -> None:
            raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(watch, "Observer", NoObserver)
    given = start(xrays)
    assert given.nothing()
    save_chest(xrays / "x.png")
    assert given.names(1) == {"x.png"}
    (error,) = given.told
    assert "inotify watch limit reached" in str(error)


@pytest.mark.parametrize("poll", [False, True])
def test_folder_that_vanishes_is_waited_for(start, save_chest, xrays, poll: bool) -> None:
    save_chest(xrays / "x.png")
    given = start(xrays, poll=poll, list_s=0.3)
    assert given.names(1) == {"x.png"}
    away = xrays.with_name("away")
    xrays.rename(away)
    assert given.nothing()
    (error,) = given.told
    assert str(error).startswith(f"{xrays}: the folder is gone")
    away.rename(xrays)
    # It holds what it held: nothing new.
    assert given.nothing()
    save_chest(xrays / "y.png")
    assert given.names(1) == {"y.png"}
    assert given.told == [error]


# The command.


def until(true: Callable[[], bool]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + 3 * PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_watching_a_folder(model, save_chest, xrays, tmp_path) -> None:
    out, told = xrays / "out", tmp_path / "all.jsonl"
    line = [sys.executable, "-c", MAIN, "--watch", str(xrays), "-o", str(out), *model]
    line += ["--jsonl", str(told)]

    def begin() -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(line, text=True, **pipes)  # type: ignore[call-overload,no-any-return]

    def records() -> list[tuple[str, str]]:
        lines = [json.loads(x) for x in told.read_text().splitlines()] if told.exists() else []
        return [(Path(x["source"]).relative_to(xrays).as_posix(), x["status"]) for x in lines]

    save_chest(xrays / "a.png")
    (xrays / "bad.png").write_bytes(b"no image")
    process = begin()
    until(lambda: len(records()) == 2)
    save_chest(xrays / "sub" / "b.png")
    save_chest(xrays / "a.jpg")
    until(lambda: len(records()) == 4)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert {x for x in stdout.splitlines() if " on CPUExecutionProvider -> " in x} == {
        *stdout.splitlines()
    }
    notice, *errors = stderr.splitlines()
    assert notice == f"watching {xrays}; Ctrl-C ends it"
    assert len(errors) == 2
    assert errors[0].startswith(f"error: {xrays / 'bad.png'}: is not an image")
    assert errors[1].startswith(f"error: {xrays / 'a.jpg'}: its outputs would overwrite those of")
    before = [("a.png", "ok"), ("bad.png", "error")]
    assert records()[:2] == before
    assert set(records()[2:]) == {("sub/b.png", "ok"), ("a.jpg", "error")}
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*"))
    names = [f"{x}{end}" for x in ("a", "sub/b") for end in (".json", "_lungs.png", "_overlay.png")]
    assert written == sorted(names)

    # Again: what is done is known, what failed is tried once more.
    process = begin()
    until(lambda: len(records()) == 6)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert stdout.count(": skipped, done before -> ") == len(stdout.splitlines()) == 2
    assert set(records()[4:]) == {("a.jpg", "error"), ("bad.png", "error")}


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_lines_lost_by_an_interruption_are_added(run_cxrseg, model, save_chest, xrays, tmp_path):
    told = tmp_path / "all.jsonl"
    save_chest(xrays / "a.png")
    assert run_cxrseg(xrays, *model).code == 0  # done, and no line of it
    code = (
        "import os, signal\n"
        "from cxrseg.runtime.batch import record as module\n"
        "original = module.record_of\n"
        "def record(*args):\n"
        "    os.kill(os.getpid(), signal.SIGINT) if told else told.append(args)\n"
        "    return original(*args)\n"
        "told, module.record_of = [], record\n"
    )
    save_chest(xrays / "b.png")
    line = [sys.executable, "-c", code + MAIN, "--watch", str(xrays), *model, "--jsonl", str(told)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (only,) = [json.loads(text) for text in told.read_text().splitlines()]
    assert (only["input"], only["status"]) == ("a.png", "ok")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--watch", "--csv", "t.csv"], "take --jsonl with --watch"),
        (["--poll"], "--poll is about --watch"),
    ],
)
def test_wrong_usage(run_cxrseg, xrays, args: list[str], message: str) -> None:
    result = run_cxrseg(xrays, *args)
    assert result.code == 2 and message in result.err


def test_only_folders_are_watched(run_cxrseg, save_chest, xrays) -> None:
    path = save_chest(xrays / "x.png")
    for wrong, cause in ((path, "is not a folder"), (xrays / "none", "no such folder")):
        result = run_cxrseg(xrays, wrong, "--watch")
        assert (result.code, result.out, len(result.errors)) == (1, "", 1)
        assert result.err.startswith(f"error: {wrong}: {cause}")


def test_extra_that_is_missing_is_named(run_cxrseg, xrays, monkeypatch) -> None:
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    result = run_cxrseg(xrays, "--watch")
    assert result.code == 1 and 'pip install "cxrseg[watch]"' in result.err
