"""The model's file, or its two files: how large, how written, and put in their place together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import onnx_ir as ir

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.files.apart import require_apart
from cxrseg.runtime.files.atomic import check_place, put_in_place
from cxrseg.runtime.files.opening import open_file, place_of
from cxrseg.runtime.inference.model_file import MAX_MODEL_BYTES
from cxrseg.runtime.readers.reading import SUFFIXES

ONE_FILE = MAX_MODEL_BYTES
"""Most bytes of a model in one file: what the runtime reads, below the 2 GiB of protobuf. The
weights of a larger one go to a second file."""

DATA_SUFFIX = ".data"
"""What the second file is called after the first."""


def serialized_size(model: ir.Model) -> int:
    """Return the bytes of a model as one file, without making them.

    Args:
        model: The graph, whose constants are numeric.
    """
    constants = dict(model.graph.initializers)
    model.graph.initializers.clear()
    try:
        proto = ir.to_proto(model)
    finally:
        model.graph.initializers.update(constants)
    graph = proto.graph.ByteSize()
    for name, value in constants.items():
        if (tensor := value.const_value) is not None:
            header = onnx.TensorProto(name=name, data_type=tensor.dtype, dims=tensor.shape.numpy())
            graph += _field(header.ByteSize() + _field(tensor.nbytes))
    proto.ClearField("graph")
    return int(proto.ByteSize() + _field(graph))


def _field(length: int) -> int:
    """Return the bytes that protobuf needs for a field of `length` bytes: tag, length, content."""
    return 1 + max(1, -(-length.bit_length() // 7)) + length


def save(model: ir.Model, path: Path) -> tuple[Path, ...]:
    """Write a model; above `ONE_FILE` bytes its weights go to a second file beside the first.

    Returns:
        What was written, the ONNX file first. It refers to the second by its bare name.
    """
    if serialized_size(model) <= ONE_FILE:
        proto = ir.to_proto(model)
        del proto.graph.value_info[:]  # whoever loads the file infers them
        path.write_bytes(proto.SerializeToString())
        return (path,)
    data = path.with_name(path.name + DATA_SUFFIX)
    ir.save(model, path, external_data=data.name)
    return path, data


def require_place(output: Path, *sources: Path | None) -> Path:
    """Check, before long work, that a file can be written there.

    Args:
        output: The file.
        sources: What it is made from; None = nothing.

    Returns:
        The file, or where it leads as a link.

    Raises:
        CxrsegError: Its folder is missing or read-only, something lies there that is no file, or it
            would replace a source, or has the name of an image or a table.
    """
    remedy = "choose another -o"
    require_apart(output, filter(None, sources), remedy)
    # The images of a folder are sources, too.
    if output.suffix.lower() in {*SUFFIXES, ".csv"}:
        raise CxrsegError(output, "is the name of an image or a table, not of a network", remedy)
    return check_place(output, remedy)


@contextmanager
def atomic_outputs(output: Path) -> Iterator[Path]:
    """Give a path of the same name in a temporary folder beside `output`.

    At the end each file in that folder takes its place beside `output`, `output` itself last: an
    earlier one is removed before what it refers to changes. When the block fails nothing changes.

    Raises:
        CxrsegError: The files cannot be written or put in place; an OSError of the block counts as
            such.
    """
    try:
        place = place_of(output)
        # In the same folder, because a rename is atomic within one file system only.
        with TemporaryDirectory(prefix=".cxrseg-", suffix=".tmp", dir=place.parent) as folder:
            yield Path(folder, place.name)
            files = {place_of(place.with_name(x.name)): x for x in Path(folder).iterdir()}
            model = files.pop(place)
            put_in_place({**files, place: model})
    except OSError as error:
        cause = f"cannot be written ({error.strerror or error})"
        raise CxrsegError(output, cause, "choose another -o") from error


def digest(files: Sequence[Path]) -> str:
    """Return the SHA-256 of files one after the other, lower-case hex."""
    found = hashlib.sha256()
    for path in files:
        with open_file(path) as file:
            while block := file.read(1 << 20):
                found.update(block)
    return found.hexdigest()
