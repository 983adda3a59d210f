"""Reading what ``torch.save`` wrote: plain data and weights, no larger in memory than in the file.

A few hundred bytes can ask for more than any memory or life holds: compressed records, weights that
repeat one stored number, lists that hold each other ten times over, functions that make a text of
any length. All of it is refused here, for all that reads a checkpoint; what costs time in the
reader itself, before the reader sees it.
"""

from __future__ import annotations

import io
import os
import pickletools
import re
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

MAX_PICKLE = 32 * 2**20
"""Most bytes of all that is no weight, and of texts counted wherever they stand; vit_h has less
than a hundredth."""

MAX_STEPS = 10 * MAX_OBJECTS
"""Most steps that build it; vit_h with all that its optimizer keeps has a twentieth."""

MAX_TUPLE = 100
"""Most values in a tuple, with those of tuples in it; a weight has a dozen."""

MAX_INTEGER = 2**63
"""No whole number is as large: no weight has such a place, and Python hashes others alike."""

FUNCTIONS = (
    "collections OrderedDict",
    "torch Size",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
)
"""All that a file may call, besides torch's storages."""

MOST_SHARED = 4
"""Most weights, on average, that share the same stored numbers."""


Steps = Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]

_NAME = 0
_STORAGE = re.compile(r"torch [A-Z]\w*Storage")
_TOO_LONG = "it has too much that is no weight"


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
            for steps in _pickles(file):
                _check_steps(steps)
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
    if not _is_archive(file):
        return
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
    if len(records) > MAX_OBJECTS:
        raise ValueError(f"it has {len(records)} records")
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ValueError("its records are compressed")
    if sum(record.file_size for record in records) > size:
        raise ValueError("its records are larger than the file")


def _is_archive(file: BinaryIO) -> bool:
    """Tell an archive from what torch wrote before 1.6, as its reader does: by the first bytes."""
    file.seek(0)
    start = file.read(4)
    file.seek(0)
    return start == b"PK\x03\x04"


def _pickles(file: BinaryIO) -> Iterator[Steps]:
    """Yield the steps of each pickle of the file that torch will run."""
    if _is_archive(file):
        # Torch's own reader: another might find another record of that name.
        content = torch._C.PyTorchFileReader(file).get_record("data.pkl")
        if len(content) > MAX_PICKLE:
            raise ValueError(_TOO_LONG)
        yield pickletools.genops(content)
        return
    # Before 1.6: a magic number, a version, facts about the machine, the data, names of weights.
    start = io.BytesIO(file.read(MAX_PICKLE))
    for _ in range(5):
        yield pickletools.genops(start)


def _check_steps(steps: Steps) -> None:
    """Refuse a pickle that calls what no checkpoint needs, or would keep its reader busy.

    A tuple that holds a tuple twice, n times over, is hashed 2 ** n times as a key, and a list of
    that kind is written out where it is called. So tuples are small and no keys, and what is
    called is named.

    Args:
        steps: What the pickle does, in order.

    Raises:
        ValueError: It does.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[object, int] = {}
    for number, (step, argument, _) in enumerate(steps):
        if number > MAX_STEPS:
            raise ValueError(_TOO_LONG)
        if step.name == "MARK":
            marks.append(len(stack))
            continue
        if step.name.endswith("PUT"):
            memo[argument] = stack[-1]
            continue
        before = step.stack_before
        taken: list[int] = []
        if pickletools.markobject in before:
            taken = _cut(stack, marks.pop())
            before = before[: before.index(pickletools.markobject)]
        taken = _cut(stack, len(stack) - len(before)) + taken
        if step.name.endswith("GET"):
            stack.append(memo[argument])
        else:
            stack += [_weigh(step.name, argument, taken)] * len(step.stack_after)


def _cut(stack: list[int], start: int) -> list[int]:
    """Take the end off a list."""
    if start < 0:
        raise ValueError("it takes what is not there")
    end = stack[start:]
    del stack[start:]
    return end


def _weigh(step: str, argument: Any, taken: Sequence[int]) -> int:
    """Return what a step makes: the size of a tuple, `_NAME` for a name, 1 for all else.

    Raises:
        ValueError: The step is none of a checkpoint.
    """
    if step.startswith("TUPLE"):
        size = 1 + sum(max(1, values) for values in taken)
        if size > MAX_TUPLE:
            raise ValueError(f"it has a tuple of more than {MAX_TUPLE} values")
        return size
    if step == "GLOBAL":
        if argument not in FUNCTIONS and not _STORAGE.fullmatch(argument):
            raise ValueError(f"it asks for {argument.replace(' ', '.')[:80]}")
        return _NAME
    if step in ("REDUCE", "NEWOBJ") and taken[0] != _NAME:
        raise ValueError("it calls what is no function")
    if step in ("SETITEM", "SETITEMS") and max(taken[1::2], default=1) > 1:
        raise ValueError("it has a tuple as a key")
    large = isinstance(argument, int) and abs(argument) >= MAX_INTEGER
    if large and argument != torch.serialization.MAGIC_NUMBER:
        raise ValueError("it has a whole number of more than 64 bits")
    return 1


def _check_plain(data: object, size: int) -> None:
    """Refuse what is larger than a file of `size` bytes can be, or no plain data.

    Raises:
        ValueError: It is.
    """
    objects = weights = texts = 0
    waiting = [(data, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"it has lists in more than {MAX_DEPTH} others")
        if isinstance(value, Tensor):
            weights += _memory_of(value)
        if isinstance(value, str | bytes):
            texts += len(value)
            if texts > MAX_PICKLE:
                raise ValueError(_TOO_LONG)
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
    count = tensor.numel() * tensor.element_size()
    if count > tensor.untyped_storage().nbytes():
        raise ValueError("it has weights that are larger than what is stored of them")
    return count
