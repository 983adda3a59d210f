"""Training data: a folder or a table of X-rays with masks, checked before any work is done."""

from __future__ import annotations

import csv
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import PROTOCOLS, Protocol
from cxrseg.runtime.readers import READERS, read
from cxrseg.runtime.readers.raster import FORMATS

Item = TypeVar("Item")

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

LARGE_PART = 0.1
"""A component is a lung of its own when it holds at least this share of the mask."""

CRUMBS = 0.02
"""Two lungs count as told apart when everything else in the mask is no more than this share."""


MAX_GRAY = 0.1
"""Largest share of pixels between black and white in a file that passes for a binary mask."""


@dataclass(frozen=True)
class Sample:
    """One X-ray with its mask.

    Attributes:
        image: Path of the X-ray.
        mask: Path of the mask, of the same size: binary, or a label map 0, 1 = right, 2 = left.
        split: ``train``, ``val`` or ``test``.
        protocol: Drawing convention of the mask.
        group: Where it comes from, for balancing and for figures per source.
    """

    image: Path
    mask: Path
    split: Split
    protocol: Protocol
    group: str


def read_samples(
    source: Path, where: dict[str, list[str]] | None = None, group_column: str = "source"
) -> list[Sample]:
    """List the samples of a folder or a CSV file.

    A folder holds ``{train,val,test}/{images,masks}`` with equal file stems. A CSV has the
    columns ``image,mask,split``, paths relative to it; an optional column ``protocol`` says
    ``fields`` or ``whole``. Rows of other splits are left out.

    Args:
        source: Folder or CSV file.
        where: Column -> accepted values; rows that do not match are left out. CSV only.
        group_column: CSV column that becomes `Sample.group`.

    Raises:
        CxrsegError: Nothing usable there, a column or a file is missing, or a name is unknown.
    """
    if source.is_dir():
        samples = _from_folder(source)
    elif source.is_file():
        samples = _from_csv(source, where or {}, group_column)
    else:
        raise CxrsegError(source, "no such file or folder", "give a data folder or a CSV file")
    if not samples:
        raise CxrsegError(
            source,
            "no X-ray with a mask found",
            "expected {train,val,test}/{images,masks} or a CSV with columns image,mask,split",
        )
    return samples


def _from_folder(folder: Path) -> list[Sample]:
    samples = []
    for split in SPLITS:
        images, masks = folder / split / "images", folder / split / "masks"
        if not images.is_dir():
            continue
        by_stem = {p.stem: p for p in _image_files(masks)}
        for image in _image_files(images):
            if image.stem not in by_stem:
                raise CxrsegError(image, f"no mask of that name in {masks}", "add it or move both")
            samples.append(Sample(image, by_stem[image.stem], split, "fields", folder.name))
    return samples


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    suffixes = {suffix for reader in READERS for suffix in reader.suffixes}
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes)


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Read a CSV file.

    Returns:
        Names of the columns, and a dict of them for each row.

    Raises:
        CxrsegError: The file is missing, is no CSV in UTF-8, or has a row with too many cells.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="", strict=True)
            rows = list(reader)
            columns = list(reader.fieldnames or [])
    except FileNotFoundError as error:
        raise CxrsegError(path, "no such file", "give the path of a CSV file") from error
    except OSError as error:
        cause = f"cannot be read ({error.strerror or error})"
        raise CxrsegError(path, cause, "give the path of a CSV file") from error
    except (csv.Error, UnicodeDecodeError) as error:
        cause = f"is not a CSV file in UTF-8 ({error})"
        raise CxrsegError(path, cause, "save it as one") from error
    for number, row in enumerate(rows, start=1):
        if None in row:
            raise CxrsegError(path, f"row {number} has more cells than the header", "mend it")
    return columns, rows


def _from_csv(table: Path, where: dict[str, list[str]], group_column: str) -> list[Sample]:
    columns, rows = read_table(table)
    for name in ("image", "mask", "split", *where):
        if name not in columns:
            raise CxrsegError(
                table,
                f"no column {name!r}; there are {', '.join(columns) or 'none'}",
                "the first line names the columns image,mask,split",
            )
    samples = []
    for number, row in enumerate(rows, start=2):
        if any(row[name] not in values for name, values in where.items()):
            continue
        if row["split"] not in SPLITS:
            continue
        protocol = row.get("protocol") or "fields"
        if protocol not in PROTOCOLS:
            raise CxrsegError(
                f"{table} line {number}",
                f"unknown protocol {protocol!r}",
                f"use one of {', '.join(PROTOCOLS)}",
            )
        image, mask = table.parent / row["image"], table.parent / row["mask"]
        for path in (image, mask):
            if not path.is_file():
                raise CxrsegError(path, f"no such file (line {number} of {table.name})")
        samples.append(
            Sample(
                image,
                mask,
                row["split"],
                protocol,
                row.get(group_column) or table.stem,
            )
        )
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


def read_mask(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read a mask file.

    Args:
        path: Image of 0 and 255, of 0 and 1, or a label map; palettes count by their indices.
        size: Native (height, width) of its X-ray.

    Returns:
        uint8 [H, W] of 0 and 1 (binary), or 0, 1, 2 (label map).

    Raises:
        CxrsegError: Not an image, another size, empty, or values that are no labels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as file:
                width, height = file.size
                if (height, width) != size:
                    raise CxrsegError(
                        path,
                        f"the mask is {width} x {height}, its image {size[1]} x {size[0]}",
                        "draw the mask at the size of the image",
                    )
                # A palette's indices are its labels, so it is not resolved to colors.
                gray = file.mode in ("P", "L", "1", "I", "I;16")
                mask = np.asarray(file if gray else file.convert("L"))
    except CxrsegError:
        raise
    # On damaged files Pillow's parsers raise nearly any type, not OSError alone.
    except Exception as error:
        cause = f"not a readable mask ({str(error) or type(error).__name__})"
        raise CxrsegError(path, cause, "save it as 8-bit PNG") from error
    if mask.dtype == np.bool_:
        mask = mask.astype(np.uint8)
    values = np.unique(mask)
    if values[-1] == 0:
        raise CxrsegError(path, "the mask is empty", "remove the pair or draw the lungs")
    if values[-1] <= 2:
        return mask.astype(np.uint8)
    # Gray edges of a resized or JPEG mask are fine, a photograph is not.
    between = np.count_nonzero((mask > 15) & (mask < 240)) / mask.size
    if between > MAX_GRAY or not 127 < values[-1] <= 255:
        raise CxrsegError(
            path,
            "neither a binary mask nor a label map (0, 1 = right lung, 2 = left lung)",
            "check that images and masks are not swapped",
        )
    return (mask > 127).astype(np.uint8)


def tell_sides_apart(mask: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Turn a binary mask of two lungs into a label map, where it falls into two parts.

    The part further left in the image is the patient's right lung. Crumbs join the nearer lung.

    Args:
        mask: uint8 [H, W] of 0 and 1.

    Returns:
        uint8 [H, W] of 0, 1 = right, 2 = left; None when the lungs touch or one is missing.
    """
    count, parts, stats, centers = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    total = int(areas.sum())
    if count < 3 or total == 0:
        return None
    order = np.argsort(areas)[::-1]
    first, second = order[:2]
    if areas[second] < LARGE_PART * total:
        return None
    if total - areas[first] - areas[second] > CRUMBS * total:
        return None
    right, left = sorted((first, second), key=lambda i: centers[1 + i][0])
    middles = centers[1:, 0]
    nearer_left = np.abs(middles - middles[left]) < np.abs(middles - middles[right])
    table = np.zeros(count, np.uint8)
    table[1:] = np.where(nearer_left, 2, 1)
    table[1 + right], table[1 + left] = 1, 2
    return np.asarray(table[parts], dtype=np.uint8)


def check_pair(sample: Sample) -> None:
    """Check that both files of a pair can be read and fit each other.

    Raises:
        CxrsegError: As `read_mask`; or the X-ray cannot be read.
    """
    read_mask(sample.mask, read(sample.image).size)


def label_map(sample: Sample, size: tuple[int, int]) -> tuple[NDArray[np.uint8], bool]:
    """Return a sample's mask and whether its lungs are told apart.

    Args:
        sample: The pair.
        size: Native (height, width) of its X-ray.

    Returns:
        A label map (0, 1, 2) and True, or a binary mask (0, 1) and False.

    Raises:
        CxrsegError: As `read_mask`.
    """
    mask = read_mask(sample.mask, size)
    if mask.max() == 2:
        return mask, True
    sided = tell_sides_apart(mask)
    return (mask, False) if sided is None else (sided, True)
