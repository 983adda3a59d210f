"""Images that turn up in folders, each done once it is complete."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from typing import TYPE_CHECKING

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver

from cxrseg.runtime.batch.jobs import Job, Outcome, Settings
from cxrseg.runtime.batch.plan import Planner
from cxrseg.runtime.batch.workers import process_all
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.readers.folders import ImageFile, is_image, list_images

if TYPE_CHECKING:
    from cxrseg.runtime.segmenter import Segmenter

SETTLE_S = 2.0
"""Seconds for which a file's size and time must stay the same before it counts as complete."""

LOCKED_S = 60.0
"""Seconds after which a file that is empty, or cannot be opened, is given all the same."""

LIST_S = 60.0
"""Seconds between two listings of the folders, for what the system's notices have left out."""

POLL_S = 5.0
"""Seconds between two looks at a folder that is polled, gone or gives no notice of changes."""

BATCH = 64
"""Most images given at once."""

_TICK_S = 0.25

UNFINISHED = (".part", ".partial", ".filepart", ".tmp", ".temp", ".crdownload", ".download", "~")
"""Ends of the names that files have while programs copy or write them."""

# A file that is opened or read is no news.
_NEWS = ("created", "modified", "moved", "closed")

_Signature = tuple[int, int]


@dataclass
class _Waiting:
    """A file that may not be complete yet: how it looked, and since when it looks so."""

    root: Path
    signature: _Signature | None
    since: float


class _Handler(FileSystemEventHandler):
    def __init__(self, root: Path, news: SimpleQueue[tuple[Path, Path]]) -> None:
        self._root, self._news = root, news

    def on_any_event(self, event: FileSystemEvent) -> None:
        # A folder is modified by whatever happens in it, of which there is an event, too.
        if event.event_type in _NEWS and not (
            event.is_directory and event.event_type == "modified"
        ):
            path = event.dest_path if event.event_type == "moved" else event.src_path
            self._news.put((self._root, Path(os.fsdecode(path))))


class Watcher:
    """Watches folders, and those in them, for images.

    A file is given when it has a size, its size and time of change have settled and it can be
    opened; again only when they change. Files that are there already are given first. What a
    folder's listing leaves out (hidden files, cxrseg's own images) never is, nor names of
    `UNFINISHED` files. A folder that vanishes, as a network drive does, is waited for.

    Args:
        folders: Existing folders.
        poll: Look every few seconds, and do not rely on the system's notice of changes, of which
            network drives give none.
        report: Takes what goes wrong with a folder.
        settle_s: Seconds for which a file must stay the same.
        list_s: Seconds between two listings.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        poll: bool = False,
        report: Callable[[CxrsegError], None] = lambda error: None,
        settle_s: float = SETTLE_S,
        list_s: float = LIST_S,
    ) -> None:
        self._roots = [folder.absolute() for folder in folders]
        self._poll = poll
        self._report = report
        self._settle_s, self._list_s = settle_s, list_s
        self._news: SimpleQueue[tuple[Path, Path]] = SimpleQueue()
        self._waiting: dict[Path, _Waiting] = {}
        self._given: dict[Path, _Signature] = {}
        self._observers: dict[Path, BaseObserver] = {}
        self._lost: set[Path] = set()

    @property
    def count(self) -> int:
        """Number of images given that are still there, as far as is known."""
        return len(self._given)

    def batches(self) -> Generator[list[ImageFile], None, None]:
        """Yield images as they become complete, without end. Close it to end the watching."""
        try:
            listed = None
            while True:
                pause = min(POLL_S, self._list_s) if self._lost else self._list_s
                if listed is None or monotonic() - listed >= pause:
                    self._list()
                    listed = monotonic()
                self._hear()
                ready = self._settled()
                for start in range(0, len(ready), BATCH):
                    yield ready[start : start + BATCH]
                if not ready:
                    sleep(_TICK_S)
        finally:
            for observer in self._observers.values():
                observer.stop()
                # They may hang with a network drive; they do not keep the program from ending.
                observer.join(1)

    def _list(self) -> None:
        """Look at everything, and see that every folder is being observed."""
        present: set[Path] = set()
        for root in self._roots:
            if not root.is_dir():
                self._lose(root, CxrsegError(root, "the folder is gone", "it is waited for"))
                continue
            observer = self._observers.get(root)
            if observer is None or not all(emitter.is_alive() for emitter in observer.emitters):
                self._observe(root)
            for image in list_images(root):
                if isinstance(image, CxrsegError):
                    self._report(image)
                else:
                    present.add(image.path)
                    self._see(root, image.path)
        if not self._lost:
            self._given = {path: x for path, x in self._given.items() if path in present}

    def _observe(self, root: Path) -> None:
        if root in self._observers:
            self._observers.pop(root).stop()
        observer: BaseObserver = PollingObserver(timeout=POLL_S) if self._poll else Observer()
        try:
            observer.schedule(_Handler(root, self._news), str(root), recursive=True)
            observer.start()
        # No notice of changes to be had, or the system's limit is reached.
        except OSError as error:
            cause = f"the system gives no notice of changes ({error.strerror or error})"
            remedy = f"it is looked at every {POLL_S:.0f} s instead"
            self._lose(root, CxrsegError(root, cause, remedy))
            return
        self._observers[root] = observer
        self._lost.discard(root)

    def _lose(self, root: Path, error: CxrsegError) -> None:
        if root not in self._lost:
            self._lost.add(root)
            self._report(error)

    def _hear(self) -> None:
        """Take over the events of the observers."""
        # While a file is written there is much news of it.
        news: dict[tuple[Path, Path], None] = {}
        with suppress(Empty):
            while True:
                news[self._news.get_nowait()] = None
        for root, path in news:
            if not path.is_relative_to(root) or _is_hidden(path.relative_to(root)):
                continue
            if path.is_dir():
                for image in list_images(path):
                    if isinstance(image, ImageFile):
                        self._see(root, image.path)
            elif is_image(path):
                self._see(root, path)

    def _see(self, root: Path, path: Path) -> None:
        # Their content may be that of an image already.
        if path.name.lower().endswith(UNFINISHED):
            return
        if path not in self._waiting and _signature(path) != self._given.get(path):
            self._waiting[path] = _Waiting(root, None, monotonic())

    def _settled(self) -> list[ImageFile]:
        """Return what is complete, and look at the rest again."""
        now = monotonic()
        ready = []
        for path, waiting in list(self._waiting.items()):
            signature = _signature(path)
            if signature is None:  # removed or renamed
                del self._waiting[path]
            elif signature != waiting.signature:
                waiting.signature, waiting.since = signature, now
            elif now - waiting.since >= self._settle_s and (
                _is_readable(path) or now - waiting.since >= LOCKED_S
            ):
                del self._waiting[path]
                self._given[path] = signature
                ready.append(ImageFile(path, path.parent.relative_to(waiting.root)))
        return ready


def watch(
    watcher: Watcher,
    output: Path | None,
    segmenter: Segmenter,
    settings: Settings,
    workers: int = 1,
) -> Generator[tuple[Job, Outcome], None, None]:
    """Do the images that a watcher gives, without end. Close the iterator to end it.

    Args:
        watcher: Where images turn up.
        output: Where outputs go, in the same sub-folders; None = beside each image.
        segmenter: The loaded model.
        settings: What to do.
        workers: Images in work at once.

    Yields:
        As `process_all` does.
    """
    planner = Planner(output, settings)
    with closing(watcher.batches()) as batches:
        for images in batches:
            with closing(
                process_all(planner.jobs(images), segmenter, settings, workers)
            ) as outcomes:
                yield from outcomes
            planner.forget_missing(2 * watcher.count + BATCH)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _signature(path: Path) -> _Signature | None:
    """Return size and time of change, or None where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _is_readable(path: Path) -> bool:
    """Tell whether a file holds anything and nobody keeps it from being read."""
    try:
        with path.open("rb") as file:
            return bool(file.read(1))
    except OSError:
        return False
