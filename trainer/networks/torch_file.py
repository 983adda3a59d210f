"""Reading what ``torch.save`` wrote: plain data and weights, no larger in memory than in the file.

A few hundred bytes can ask for more than any memory holds: compressed records, weights that repeat
one stored number, lists that hold each other ten times over. All of it is refused here, for all
that reads a checkpoint.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.files.opening import open_file

MAX_OBJECTS = 200_000
"""Most objects in a file, lists, numbers and texts counted one by one wherever they stand; one of
vit_h with all that its optimizer keeps has a tenth of that."""

MAX_DEPTH = 32
"""Most lists within each other."""

MOST_SHARED = 4
"""Most weights, on average, that share the same stored numbers."""


def read_torch_file(path: Path) -> Any:
    """Read a file written by ``torch.save`` without running any code in it.

    Args:
        path: The file.

    Returns:
        Dicts, lists, texts, numbers and tensors in memory of their own.

    Raises:
        CxrsegError: The file is missing, is no such file, holds more than plain data, or would
            take far more memory than its own size.
    """
    try:
        file = open_file(path)
    except FileNotFoundError:
        raise CxrsegError(path, "no such file", "check the path of the checkpoint") from None
    except OSError as error:
        cause = f"cannot be read ({error.strerror or error})"
        raise CxrsegError(path, cause, "check the path and the permissions") from None
    try:
        with file:
            size = os.fstat(file.fileno()).st_size
            _check_records(file, size)
            file.seek(0)
            data = torch.load(file, map_location="cpu", weights_only=True)
        _check_plain(data, size)
    # A damaged file may raise anything in the reader.
    except Exception as error:
        detail = " ".join(str(error).split())[:200] if type(error) is ValueError else ""
        raise CxrsegError(
            path,
            f"not a checkpoint that can be read safely ({detail or type(error).__name__})",
            "give a model.ckpt of cxrseg-train or an official sam_vit_*.pth",
        ) from None
    return data


def _check_records(file: BinaryIO, size: int) -> None:
    """Refuse an archive whose records are more than the file: torch stores them as they are."""
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
    if len(records) > MAX_OBJECTS:
        raise ValueError(f"it has {len(records)} records")
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ValueError("its records are compressed")
    if sum(record.file_size for record in records) > size:
        raise ValueError("its records are larger than the file")


def _check_plain(data: object, size: int) -> None:
    """Refuse what is larger than a file of `size` bytes can be, or no plain data.

    Raises:
        ValueError: It is.
    """
    objects = weights = 0
    waiting = [(data, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"it has lists in more than {MAX_DEPTH} others")
        if isinstance(value, Tensor):
            weights += _memory_of(value)
        for inner in _inside(value):
            objects += 1
            if objects > MAX_OBJECTS:
                raise ValueError(f"it has more than {MAX_OBJECTS} objects")
            waiting.append((inner, depth + 1))
    if weights > MOST_SHARED * size:
        raise ValueError("its weights are larger than the file")


def _inside(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield key
            yield inner
    elif isinstance(value, Sequence | Set) and not isinstance(value, str | bytes):
        yield from value


def _memory_of(tensor: Tensor) -> int:
    """Return the bytes of a tensor's numbers, each of which must be stored."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise ValueError("it has weights that are not stored plainly")
    count = tensor.numel() * tensor.element_size()
    if count > tensor.untyped_storage().nbytes():
        raise ValueError("it has weights that are larger than what is stored of them")
    return count
