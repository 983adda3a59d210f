"""Which image is done, in which order, and which outputs are its own; decided before any is."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from cxrseg.runtime.batch.jobs import Job, Settings, Task, would_overwrite
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.files.own_files import is_our_image, is_our_image_name
from cxrseg.runtime.readers.folders import OURS, Found, ImageFile, LeftOut, is_folder, scan
from cxrseg.runtime.readers.reading import SUFFIXES
from cxrseg.runtime.writers.paths import FORMATS, Format, Outputs

PathKey = Callable[[Path], str]
"""Gives one text per place of a file, however its folder is spelled."""


def plan(
    inputs: Iterable[Path], folder: Path | None = None, settings: Settings | None = None
) -> list[Job]:
    """Decide what to do with each input before anything is done.

    Args:
        inputs: Files, folders and DICOMDIR files; folders are replaced by their images.
        folder: As `Planner` takes it.
        settings: As `Planner` takes them.

    Returns:
        One job per image, in order.
    """
    return Planner(folder, settings).jobs(search(inputs))


def search(inputs: Iterable[Path]) -> list[Found]:
    """Return what files, folders and DICOMDIR files stand for, as `scan` does for each."""
    return [found for path in inputs for found in scan(path)]


class Planner:
    """Makes jobs of images, and remembers which image has which outputs.

    Args:
        folder: Where outputs go, in the same sub-folders as the images of a folder lie in;
            None = beside each image.
        settings: What will be written. With `resume`, of two images with the same outputs the one
            that an earlier run did keeps them; else the first. None = the defaults.

    Attributes:
        left_out: What the search and the planning left out, in the order of the images.
    """

    def __init__(self, folder: Path | None = None, settings: Settings | None = None) -> None:
        self._folder = folder
        self._settings = settings or Settings()
        # Place of a report -> the image that has it.
        self._owners: dict[str, Path] = {}
        self.left_out: list[LeftOut] = []

    def jobs(self, images: Collection[Found]) -> list[Job]:
        """Decide what to do with images.

        An image named twice is done once. An image whose outputs would replace another's, or an
        input, becomes an error. cxrseg's outputs of an image that is itself among the inputs are
        left out, so that ``*.png`` can be run again.

        Args:
            images: From `scan`.

        Returns:
            One job per image, in order.
        """
        place = _places()
        keys = {x.path: _key(x.path) for x in images if isinstance(x, ImageFile)}
        inputs, products = set(keys.values()), _products(keys, place)
        jobs: list[Job] = []
        done, seen = set[Path](), set[str]()
        for image in images:
            if isinstance(image, CxrsegError):
                jobs.append(image)
                continue
            if isinstance(image, LeftOut):
                self.left_out.append(image)
                continue
            key = keys[image.path]
            if key in seen:
                if image.path not in done:
                    self.left_out.append(LeftOut(image.path, "another name of an image"))
            elif key in products and is_our_image(image.path):
                self.left_out.append(LeftOut(image.path, OURS))
            else:
                jobs.append(self._job(image, inputs, place))
                done.add(image.path)
                seen.add(key)
        return jobs

    def require_apart(
        self, tables: Iterable[Path], inputs: Collection[Path], jobs: Collection[Job] | None
    ) -> None:
        """Refuse tables that would replace a file of the run, or be replaced by one.

        Args:
            tables: Where tables are meant to go.
            inputs: What is read, folders among them.
            jobs: All jobs of the run; None = any images that may turn up in the folders.

        Raises:
            CxrsegError: There is such a table.
        """
        # Imported here, because few runs write tables.
        from cxrseg.runtime.files.apart import place_key

        for table in tables:
            key = place_key(table)
            cause = _use_as_input(key, inputs, jobs or ())
            if jobs is None:
                homes = inputs if self._folder is None else [self._folder]
                cause = cause or _use_to_come(key, homes, self._settings.formats)
            else:
                cause = cause or _use_as_output(key, jobs, self._settings.formats)
            if cause is not None:
                raise CxrsegError(table, cause, "choose another name or folder for the table")

    def forget_missing(self, limit: int) -> None:
        """Forget images that are gone, once more than `limit` are remembered."""
        if len(self._owners) > limit:
            self._owners = {key: path for key, path in self._owners.items() if _exists(path)}

    def _job(self, image: ImageFile, inputs: Collection[str], place: PathKey) -> Job:
        source = image.path
        task = Task(source, None if self._folder is None else self._folder / image.subfolder)
        outputs = task.outputs(self._settings.formats)
        if self._folder is not None:
            overwritten = next((path for path in outputs if place(path) in inputs), None)
            if overwritten is not None:
                cause = f"its output {overwritten.name} would overwrite an input file"
                return CxrsegError(source, cause, "choose another folder with -o")
        report = place(outputs.report)
        owner = self._owners.get(report, source)
        if owner != source and _exists(owner) and not self._was_done(task):
            return would_overwrite(source, owner)
        self._owners[report] = source
        return task

    def _was_done(self, task: Task) -> bool:
        """Tell whether an earlier run wrote the report that this task would write."""
        if not self._settings.resume:
            return False
        # Imported here, because one image needs none of it.
        from cxrseg.runtime.batch.resume import earlier_owner

        return earlier_owner(task) == task.source.name


def _use_as_input(key: str, inputs: Iterable[Path], jobs: Iterable[Job]) -> str | None:
    """Tell how the place with this key is read, or would be by the next run."""
    from cxrseg.runtime.files.apart import is_in, leads_to, place_key

    named = (Path(job.subject) if isinstance(job, CxrsegError) else job.source for job in jobs)
    for source in (*inputs, *named):
        if leads_to(source, key):
            return f"would replace an input, {source}"
        if Path(key).suffix in SUFFIXES and is_folder(source) and is_in(key, place_key(source)):
            return f"would be taken for an image of {source}"
    return None


def _use_as_output(key: str, jobs: Iterable[Job], formats: Collection[Format]) -> str | None:
    """Tell what else is written to the place with this key."""
    from cxrseg.runtime.files.apart import is_in, leads_to, place_key

    homes = set[Path]()
    for task in jobs:
        if isinstance(task, Task):
            homes.add(task.home)
            for output in task.outputs(formats):
                if leads_to(output, key):
                    return f"is where the result {output} goes"
    for home in homes:
        if is_in(place_key(home), key):
            return f"is where the folder {home} goes"
    return None


def _use_to_come(key: str, homes: Iterable[Path], formats: Collection[Format]) -> str | None:
    """Tell whether the results of an image that turns up could go to the place with this key."""
    from cxrseg.runtime.files.apart import is_in, place_key

    ends = tuple(path.name[1:] for path in Outputs.of(Path("x.png"), None, formats))
    for home in homes:
        if key.endswith(ends) and is_in(key, place_key(home)):
            return f"could be where a result in {home} goes"
    return None


def _products(sources: Collection[Path], place: PathKey) -> set[str]:
    """Return the places of the outputs beside the sources, empty where none can be a source."""
    if not any(is_our_image_name(source.name) for source in sources):
        return set()
    return {place(path) for source in sources for path in Outputs.of(source, None, FORMATS)}


def _places() -> PathKey:
    """Return a `PathKey` that asks the system once for each folder."""
    folders: dict[Path, str] = {}

    def place(path: Path) -> str:
        folder = path.parent
        if folder not in folders:
            folders[folder] = _key(folder)
        return os.path.normcase(Path(folders[folder], path.name))

    return place


def _key(path: Path) -> str:
    """Return one text per file, however it is spelled."""
    try:
        return os.path.normcase(path.resolve())
    # A loop of links, or a folder that may not be entered: reading it will fail with the reason.
    except (OSError, RuntimeError):
        return os.path.normcase(path.absolute())


def _exists(path: Path) -> bool:
    # Not Path's exists, which fails on a name that is too long.
    return os.path.exists(path)  # noqa: PTH110
