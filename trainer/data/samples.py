"""Training data: a folder or a table of X-rays with masks, checked before any work is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, cast

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import PROTOCOLS, Protocol
from cxrseg.runtime.readers.reading import SUFFIXES
from cxrseg.trainer.data.tables import Row, named_file, open_table
from cxrseg.trainer.recipe import ColorRecipe, DataRecipe

Item = TypeVar("Item")

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Sample:
    """One X-ray with its mask.

    Attributes:
        image: Path of the X-ray.
        mask: Path of the mask, of the same size: binary, or a label map 0, 1 = right, 2 = left.
        split: ``train``, ``val`` or ``test``.
        protocol: Drawing convention of the mask.
        group: Where it comes from, for balancing and for figures per source.
        colors: What the mask's colors mean, where that is told.
    """

    image: Path
    mask: Path
    split: Split
    protocol: Protocol
    group: str
    colors: ColorRecipe | None = None
    heart: Path | None = None


def read_samples(
    source: Path,
    where: Mapping[str, list[str]] | None = None,
    group_column: str = "source",
    colors: ColorRecipe | None = None,
) -> list[Sample]:
    """List the samples of a folder or a CSV file.

    A folder holds ``{train,val,test}/{images,masks}`` with equal file stems, and masks of the
    heart in ``hearts`` beside them, where there are any. A CSV has the columns
    ``image,mask,split``, paths relative to it; an optional column ``protocol`` says ``fields`` or
    ``whole``, and ``heart`` names masks of the heart. Rows of other splits are left out.

    Args:
        source: Folder or CSV file.
        where: Column -> accepted values; rows that do not match are left out. CSV only.
        group_column: CSV column that becomes `Sample.group`.
        colors: What the colors of the masks mean.

    Raises:
        CxrsegError: Nothing usable there, a column or a file is missing, or a name is unknown.
    """
    if source.is_dir():
        samples = _from_folder(source, colors)
    elif source.exists():
        samples = _from_csv(source, where or {}, group_column, colors)
    else:
        raise CxrsegError(source, "no such file or folder", "give a data folder or a CSV file")
    if not samples:
        raise CxrsegError(
            source,
            "no X-ray with a mask found",
            "expected {train,val,test}/{images,masks} or a CSV with columns image,mask,split",
        )
    return samples


def read_sources(sources: Sequence[Path], data: DataRecipe) -> list[Sample]:
    """List the samples of all sources of a run, of every protocol.

    Raises:
        CxrsegError: As `read_samples`.
    """
    samples: list[Sample] = []
    for source in sources:
        where = None if source.is_dir() else data.where
        samples += read_samples(source, where, data.group_column, data.colors)
    return samples


def _from_folder(folder: Path, colors: ColorRecipe | None) -> list[Sample]:
    samples = []
    for split in SPLITS:
        images, masks = folder / split / "images", folder / split / "masks"
        if not images.is_dir():
            continue
        by_stem = _by_stem(masks)
        hearts = _by_stem(folder / split / "hearts")
        for image in _image_files(images):
            if image.stem not in by_stem:
                raise CxrsegError(image, f"no mask of that name in {masks}", "add it or move both")
            mask = by_stem[image.stem]
            heart = hearts.get(image.stem)
            samples.append(Sample(image, mask, split, "fields", folder.name, colors, heart))
    return samples


def _by_stem(folder: Path) -> dict[str, Path]:
    by_stem: dict[str, Path] = {}
    for mask in _image_files(folder):
        if by_stem.setdefault(mask.stem, mask) != mask:
            cause = f"there is also {by_stem[mask.stem].name}"
            raise CxrsegError(mask, cause, "remove the one that does not count")
    return by_stem


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    # macOS leaves files of its own, with a dot before the name, on disks of others.
    names = (p for p in folder.iterdir() if not p.name.startswith("."))
    return sorted(p for p in names if p.suffix.lower() in SUFFIXES)


def _from_csv(
    source: Path, where: Mapping[str, list[str]], group_column: str, colors: ColorRecipe | None
) -> list[Sample]:
    table = open_table(source)
    table.require("image", "mask", "split", *where)
    samples = []
    accepted = {"split": SPLITS, **where}

    def is_wanted(row: Row) -> bool:
        return all(row[name] in values for name, values in accepted.items())

    for line, row in table.chosen(is_wanted):
        protocol = row.get("protocol") or "fields"
        if protocol not in PROTOCOLS:
            raise CxrsegError(
                f"{source} line {line}",
                f"unknown protocol {protocol!r}",
                f"use one of {', '.join(PROTOCOLS)}",
            )
        image, mask = (named_file(table, line, row, name) for name in ("image", "mask"))
        group = row.get(group_column) or source.stem
        split = cast(Split, row["split"])
        heart = named_file(table, line, row, "heart") if row.get("heart") else None
        samples.append(Sample(image, mask, split, protocol, group, colors, heart))
    return samples


def of_split(samples: Sequence[Sample], split: Split) -> list[Sample]:
    """Return the samples of one split, in order."""
    return [sample for sample in samples if sample.split == split]


def spread(items: Sequence[Item], limit: int | None) -> list[Item]:
    """Return at most `limit` items, spread evenly over all, in order; None = all."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]


def summarize(samples: Sequence[Sample]) -> dict[str, int]:
    """Count samples as ``group/protocol/split`` -> number, for the checkpoint."""
    counts = Counter(f"{s.group}/{s.protocol}/{s.split}" for s in samples)
    return dict(sorted(counts.items()))
