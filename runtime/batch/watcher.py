"""Images that turn up in folders, each given once it is complete."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic, sleep

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.files.opening import open_file
from cxrseg.runtime.readers.folders import ImageFile, is_image, list_images

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

RETRY_S, MAX_RETRY_S = 5.0, 600.0
"""Seconds until an image is given again after a failure that may pass; twice as many each time."""

_TICK_S = 0.25

UNFINISHED = (".part", ".partial", ".filepart", ".tmp", ".temp", ".crdownload", ".download", "~")
"""Ends of the names that files have while programs copy or write them."""

# A file that is opened or read is no news.
_NEWS = ("created", "modified", "moved", "closed")

_Signature = tuple[int, int, int]
_Identity = tuple[int, int]


@dataclass
class _Waiting:
    """A file that may not be complete yet.

    Attributes:
        root: The watched folder that it is in.
        signature: How it looked.
        since: Since when it looks so.
        tries: How often it was given as it looks, and failed.
        due: Not to be given before this time.
    """

    root: Path
    signature: _Signature | None
    since: float
    tries: int = 0
    due: float = 0.0


@dataclass(frozen=True)
class _Given:
    """A file that was given: where, how it looked, and how often it had failed so."""

    root: Path
    signature: _Signature
    tries: int


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

    A file is given when it has a size, its size and times of change have settled and it can be
    opened; again only when they change, or after `try_again`. Files that are there already are
    given first. What a folder's listing leaves out (hidden files, cxrseg's own images) never is,
    nor names of `UNFINISHED` files, nor what a link outside of the folders leads to. A folder that
    vanishes, as a network drive does, is waited for; a new one in its place is watched instead.

    Args:
        folders: Existing folders.
        poll: Look every few seconds, and do not rely on the system's notice of changes, of which
            network drives give none.
        report: Takes what goes wrong with a folder or a link, once.
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
        self._given: dict[Path, _Given] = {}
        # With the folder that each observes, which may have been moved since.
        self._observers: dict[Path, tuple[BaseObserver, _Identity]] = {}
        self._told: set[str] = set()

    @property
    def count(self) -> int:
        """Number of images given that are still there, as far as is known."""
        return len(self._given)

    def batches(self) -> Generator[list[ImageFile], None, None]:
        """Yield images as they become complete, without end. Close it to end the watching."""
        try:
            listed, seen = None, list[_Identity | None]()
            while True:
                heard = all(self._is_observed(root) for root in self._roots)
                pause = self._list_s if heard else min(POLL_S, self._list_s)
                before, seen = seen, [_identity(root) for root in self._roots]
                # A folder that is moved takes its observer along; another may be in its place.
                if listed is None or seen != before or monotonic() - listed >= pause:
                    self._list()
                    listed = monotonic()
                self._hear()
                ready = self._settled()
                for start in range(0, len(ready), BATCH):
                    yield ready[start : start + BATCH]
                if not ready:
                    sleep(_TICK_S)
        finally:
            for observer, _ in self._observers.values():
                observer.stop()
                # They may hang with a network drive; they do not keep the program from ending.
                observer.join(1)

    def try_again(self, path: Path) -> None:
        """Give an image once more though it stays the same: after `RETRY_S`, and ever later."""
        given = self._given.get(path)
        if given is not None:
            now = monotonic()
            due = now + min(RETRY_S * 2 ** min(given.tries, 30), MAX_RETRY_S)
            waiting = _Waiting(given.root, given.signature, now, given.tries + 1, due)
            self._waiting[path] = waiting

    def _list(self) -> None:
        """Look at everything, and see that every folder is being observed."""
        present: set[Path] = set()
        unseen: list[CxrsegError] = []
        unheard: list[CxrsegError] = []
        for root in self._roots:
            # First, so that nothing arrives unseen between the two.
            if error := self._observe(root):
                unheard.append(error)
            for image in _images_in(root):
                if isinstance(image, CxrsegError):
                    unseen.append(image)
                else:
                    present.add(image.path)
                    self._see(root, image.path)
        for error in (*unseen, *unheard):
            if str(error) not in self._told:
                self._report(error)
        self._told = {str(error) for error in (*unseen, *unheard)}
        # What could not be looked at may be there still.
        self._given = {
            path: given
            for path, given in self._given.items()
            if path in present or any(path.is_relative_to(error.subject) for error in unseen)
        }

    def _observe(self, root: Path) -> CxrsegError | None:
        """Ask the system for notice of changes, and return why there is none."""
        if self._is_observed(root):
            return None
        if root in self._observers:
            self._observers.pop(root)[0].stop()
        identity = _identity(root)
        if self._poll or identity is None:
            return None
        observer = Observer()
        try:
            observer.schedule(_Handler(root, self._news), str(root), recursive=True)
            observer.start()
        # The system has none, its limit is reached, or folders are nested too deep for watchdog.
        except (OSError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or error
            cause = f"the system gives no notice of changes ({reason})"
            return CxrsegError(root, cause, f"it is looked at every {POLL_S:.0f} s instead")
        self._observers[root] = observer, identity
        return None

    def _is_observed(self, root: Path) -> bool:
        """Tell whether the system gives notice of the folder that is there now."""
        if root not in self._observers:
            return False
        observer, identity = self._observers[root]
        alive = all(emitter.is_alive() for emitter in observer.emitters)
        return alive and identity == _identity(root)

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
            # What cannot be looked at is told by the next listing.
            with suppress(Exception):
                if path.is_dir():
                    for image in () if path.is_symlink() else _images_in(path):
                        if isinstance(image, ImageFile):
                            self._see(root, image.path)
                elif is_image(path):
                    self._see(root, path)

    def _see(self, root: Path, path: Path) -> None:
        # Their content may be that of an image already.
        if path in self._waiting or path.name.lower().endswith(UNFINISHED):
            return
        given = self._given.get(path)
        if given is None or given.signature != _signature(path):
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
                self._waiting[path] = _Waiting(waiting.root, signature, now)
            elif now >= max(waiting.due, waiting.since + self._settle_s) and (
                _is_readable(path) or now - waiting.since >= LOCKED_S
            ):
                del self._waiting[path]
                self._given[path] = _Given(waiting.root, signature, waiting.tries)
                if self._is_inside(path):
                    ready.append(ImageFile(path, path.parent.relative_to(waiting.root)))
        return ready

    def _is_inside(self, path: Path) -> bool:
        """Tell whether a file is in a watched folder, and not only a link in it."""
        real = Path(os.path.realpath(path))
        if any(real.is_relative_to(os.path.realpath(root)) for root in self._roots):
            return True
        cause = "is a link out of the watched folder, so it is left out"
        self._report(CxrsegError(path, cause, "put the image itself there"))
        return False


def _images_in(folder: Path) -> list[ImageFile | CxrsegError]:
    """List a folder; a defect met in one must not keep the others from being watched."""
    try:
        if _identity(folder) is not None:
            return list_images(folder)
        return [CxrsegError(folder, "the folder is gone", "it is waited for")]
    except Exception as error:
        cause = f"the folder cannot be read ({getattr(error, 'strerror', None) or error})"
        return [CxrsegError(folder, cause, "check the permissions")]


def _identity(folder: Path) -> _Identity | None:
    """Return what tells a folder from another of its name; None where there is none."""
    try:
        status = folder.stat()
    # A folder above it may not be entered: as good as gone.
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _signature(path: Path) -> _Signature | None:
    """Return size, time of change and time of replacement; None where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    # Whoever copies a file may give it the size and the time of the one before. The system's own
    # time says so; on Windows it is that of the file's creation.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_readable(path: Path) -> bool:
    """Tell whether a file holds anything and nobody keeps it from being read."""
    try:
        with open_file(path) as file:
            return bool(file.read(1))
    except OSError:
        return False
