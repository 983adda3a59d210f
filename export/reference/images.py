"""Good X-rays, to fit a reference to: the rows of a table, or the images of a data folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.readers.folders import find_images
from cxrseg.trainer.data.samples import spread
from cxrseg.trainer.data.tables import Row, named_file, open_table, recorded_name

FITTED_SPLITS = ("train", "val")
"""Splits that a reference is fitted to. Images of a test split are never looked at."""


@dataclass(frozen=True)
class SourceImage:
    """One X-ray.

    Attributes:
        name: As the table names it; the file name alone where that is an absolute path.
        path: The file.
        source: Where it comes from.
        patient: The patient, or the image as the table has it; not recorded.
    """

    name: str
    path: Path
    source: str
    patient: str


def read_images(
    data: Path,
    splits: Sequence[str] = FITTED_SPLITS,
    where: Mapping[str, Sequence[str]] | None = None,
    limit: int | None = None,
) -> list[SourceImage]:
    """List the X-rays of some splits, each once.

    Args:
        data: A CSV with the columns ``image`` and ``split``, and perhaps ``source`` and
            ``patient``, paths relative to it; or a folder with ``{split}/images``. Masks are not
            looked at.
        splits: The splits.
        where: Column of the CSV -> accepted values.
        limit: Images of each source and split, spread evenly; None = all.

    Raises:
        CxrsegError: There are none, a column or a file is missing, or the CSV is malformed.
    """
    if where and data.is_dir():
        raise CxrsegError(data, "is a folder, which has no columns", "leave --where out")
    found: list[SourceImage] = []
    for split in splits:
        images = _of_folder(data, split) if data.is_dir() else _of_table(data, split, where or {})
        by_source: dict[str, dict[Path, SourceImage]] = {}
        for image in images:
            by_source.setdefault(image.source, {}).setdefault(image.path, image)
        for named in by_source.values():
            found += spread(list(named.values()), limit)
    if not found:
        cause = f"has no image of the split {' or '.join(splits)}" + (" there" if where else "")
        raise CxrsegError(data, cause, "check its column split, or the folder's names")
    return found


def _of_folder(data: Path, split: str) -> Iterator[SourceImage]:
    folder = data / split / "images"
    if folder.is_dir():
        for path in find_images([folder]):
            name = path.relative_to(data).as_posix()
            yield SourceImage(name, path, data.name, name)


def _of_table(data: Path, split: str, where: Mapping[str, Sequence[str]]) -> Iterator[SourceImage]:
    table = open_table(data)
    table.require("image", "split", *where)
    accepted = {"split": [split], **where}

    def is_wanted(row: Row) -> bool:
        return all(row[name] in values for name, values in accepted.items())

    for line, row in table.chosen(is_wanted):
        path = named_file(table, line, row, "image")
        patient = row.get("patient") or row["image"]
        source = row.get("source") or "images"
        yield SourceImage(recorded_name(row["image"]), path, source, patient)
