"""Images that turn up in a folder are given, each once it is complete."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest

from cxrseg.runtime import CxrsegError
from cxrseg.runtime.readers.folders import ImageFile
from helpers.own import own_image

watcher = pytest.importorskip("cxrseg.runtime.batch.watcher", reason="needs the extra watch")

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
        self.watcher = watcher.Watcher(
            folders, report=self.told.append, settle_s=SETTLE_S, **options
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for batch in self.watcher.batches():
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

    monkeypatch.setattr(watcher, "sleep", nap)
    monkeypatch.setattr(watcher, "POLL_S", 0.2)

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
    made = [own_image(tmp_path / f"x_{name}") for name in ("lungs.png", "lungs.dcm", "overlay.dcm")]
    given = start(xrays)
    for file in made:
        shutil.copy(file, xrays / file.name)
    assert given.nothing()
    save_chest(xrays / "healthy_lungs.png")
    assert given.names(1) == {"healthy_lungs.png"}


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
    original, locked = watcher._is_readable, threading.Event()
    if why == "empty":
        (xrays / "x.png").touch()
    else:
        # As Windows does while another program writes.
        save_chest(xrays / "x.png")
        locked.set()
        readable = lambda path: not locked.is_set() and original(path)  # noqa: E731
        monkeypatch.setattr(watcher, "_is_readable", readable)
    given = start(xrays)
    assert given.nothing()
    locked.clear()
    save_chest(xrays / "x.png")
    assert given.names(1) == {"x.png"}


def test_file_that_stays_unreadable_is_given_in_the_end(start, xrays, monkeypatch) -> None:
    monkeypatch.setattr(watcher, "LOCKED_S", 2 * SETTLE_S)
    (xrays / "x.png").touch()
    given = start(xrays)
    assert given.names(1) == {"x.png"} and given.nothing()


def test_what_the_system_does_not_tell_is_found_by_listing(
    start, save_chest, xrays, monkeypatch
) -> None:
    monkeypatch.setattr(watcher._Handler, "on_any_event", lambda self, event: None)
    given = start(xrays, list_s=0.2)
    assert given.nothing()
    save_chest(xrays / "x.png")
    assert given.names(1) == {"x.png"}


@pytest.mark.parametrize(
    "why", [OSError(28, "inotify watch limit reached"), RecursionError("nested too deep")]
)
def test_without_notice_of_changes_the_folder_is_polled(
    start, save_chest, xrays, monkeypatch, why: Exception
) -> None:
    def refuse(self: object) -> None:
        raise why

    monkeypatch.setattr(watcher.Observer, "start", refuse)
    given = start(xrays)
    assert given.nothing()
    save_chest(xrays / "x.png")
    assert given.names(1) == {"x.png"}
    (error,) = given.told
    assert f"no notice of changes ({getattr(why, 'strerror', why)})" in str(error)


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


@pytest.mark.parametrize("poll", [False, True])
def test_a_file_replaced_with_the_same_size_and_time_is_given_again(
    start, xrays, tmp_path, poll: bool
) -> None:
    (xrays / "x.png").write_bytes(b"one image")
    given = start(xrays, poll=poll, list_s=0.2)
    assert given.names(1) == {"x.png"}
    for replace in (shutil.copyfile, os.replace):
        (tmp_path / "new.png").write_bytes(b"the other")
        before = (xrays / "x.png").stat()
        replace(tmp_path / "new.png", xrays / "x.png")
        os.utime(xrays / "x.png", ns=(before.st_atime_ns, before.st_mtime_ns))
        assert given.names(1) == {"x.png"} and given.nothing()


def test_a_file_is_given_again_when_asked_and_ever_later(save_chest, xrays, monkeypatch) -> None:
    clock = [0.0]

    def nap(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(watcher, "sleep", nap)
    monkeypatch.setattr(watcher, "monotonic", lambda: clock[0])
    path = save_chest(xrays / "x.png")
    watching = watcher.Watcher([xrays])
    batches = watching.batches()

    def wait() -> float:
        """Return how long it takes until the file is given."""
        start = clock[0]
        assert [found.path for found in next(batches)] == [path]
        return clock[0] - start

    wait()
    for expected in (5, 10, 20, 40, 80, 160, 320, 600, 600):
        watching.try_again(path)
        assert expected <= wait() < expected + 1
    # What has changed is given at once, and its failures count anew.
    watching.try_again(path)
    save_chest(path, left_lung=False)
    assert wait() < 5
    watching.try_again(path)
    assert 5 <= wait() < 6
    batches.close()


@pytest.mark.skipif(os.name != "posix", reason="makes links")
@pytest.mark.parametrize("when", ["before", "later"])
@pytest.mark.parametrize("poll", [False, True])
def test_links_out_of_the_folder_are_not_followed(
    start, save_chest, xrays, when: str, poll: bool
) -> None:
    outside = xrays.with_name("secret")
    save_chest(outside / "deep" / "private.png")
    save_chest(xrays / "own" / "x.png")

    def link() -> None:
        (xrays / "folder").symlink_to(outside)
        (xrays / "relative").symlink_to("../secret/deep")
        (xrays / "file.png").symlink_to(outside / "deep" / "private.png")
        (xrays / "all").symlink_to("/")
        (xrays / "inside.png").symlink_to(xrays / "own" / "x.png")

    if when == "before":
        link()
    given = start(xrays, poll=poll, list_s=0.2)
    if when == "later":
        assert given.names(1) == {"own/x.png"}
        link()
        assert given.names(1) == {"inside.png"}
    else:
        assert given.names(2) == {"own/x.png", "inside.png"}
    assert given.nothing()
    assert str(xrays / "file.png") in [error.subject for error in given.told]
    assert all(error.cause.startswith("is a link out of the watched") for error in given.told)


@pytest.mark.skipif(os.name != "posix", reason="makes links")
def test_a_watched_folder_may_itself_be_a_link(start, save_chest, xrays, tmp_path) -> None:
    (tmp_path / "link").symlink_to(xrays)
    given = start(tmp_path / "link")
    save_chest(xrays / "sub" / "x.png")
    assert given.names(1) == {"sub/x.png"} and given.told == []


def test_a_folder_that_cannot_be_searched_is_told_once(
    start, save_chest, xrays, monkeypatch
) -> None:
    """And keeps no other from being watched, whatever was wrong with it."""
    original, broken = watcher.list_images, threading.Event()

    def listed(folder: Path) -> list:
        if broken.is_set() and folder == xrays:
            raise RecursionError("too deep")
        return original(folder)

    monkeypatch.setattr(watcher, "list_images", listed)
    save_chest(xrays / "x.png")
    other = xrays.with_name("other")
    other.mkdir()
    given = start(xrays, other, list_s=0.1)
    assert given.names(1) == {"x.png"}
    broken.set()
    save_chest(other / "y.png")
    assert given.names(1) == {"y.png"} and given.nothing()
    assert [error.subject for error in given.told] == [str(xrays)]
    broken.clear()
    # It holds what it held.
    assert given.nothing()


@pytest.mark.skipif(os.name != "posix", reason="makes a pipe")
def test_a_pipe_with_the_name_of_an_image_keeps_nothing_waiting(start, save_chest, xrays) -> None:
    os.mkfifo(xrays / "pipe.png")
    given = start(xrays)
    save_chest(xrays / "x.png")
    assert given.names(1) == {"x.png"} and given.nothing()
