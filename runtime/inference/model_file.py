"""Reading a model file, and refusing one that is not as ``cxrseg-export`` writes it.

ONNX lets a file do more than segment: read other files, call libraries, fill the memory, run
without end. So a file is looked through before ONNX Runtime sees it.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.files.opening import read_file
from cxrseg.runtime.inference.protobuf import messages, read_message, text

if TYPE_CHECKING:
    from cxrseg.runtime.core.model_card import ModelCard
    from cxrseg.runtime.inference.onnx_graph import Port

MAX_MODEL_BYTES = 2_000_000_000
"""Largest model file accepted; ONNX itself ends at 2 GiB."""

MAX_FIELDS = 64
"""Most fields of the file itself, and of an entry of its metadata."""

# Numbers of fields of ONNX's ModelProto.
_GRAPH, _METADATA = 7, 14

INPUT = "image"
OUTPUT = "logits"

EXPORT_AGAIN = "use a model written by cxrseg-export"


def read_bytes(path: Path) -> bytes:
    """Read a model file.

    Raises:
        CxrsegError: It is missing, no file, too large, or cannot be read.
    """
    try:
        if not path.is_file():
            cause = "is not a file" if path.exists() else "no such model file"
            raise CxrsegError(path, cause, "check the path of the model")
        return read_file(path, MAX_MODEL_BYTES)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.EFBIG:
            cause = f"is too large for a model (more than {MAX_MODEL_BYTES / 1e9:.0f} GB)"
            raise CxrsegError(path, cause, EXPORT_AGAIN) from error
        cause = getattr(error, "strerror", None) or str(error)
        raise CxrsegError(path, f"cannot be read ({cause})", "check the permissions") from error


def read_card(path: Path, data: bytes) -> tuple[ModelCard, str | None]:
    """Read what a model file says of itself.

    Args:
        path: Where the file lies, for messages.
        data: The file.

    Returns:
        The model card; the quality reference as JSON that is not checked yet, or None.

    Raises:
        CxrsegError: There is no card, or it cannot be used.
    """
    from cxrseg.runtime.core.model_card import METADATA_KEY, REFERENCE_KEY, ModelCard

    try:
        metadata = _metadata(data)
    except ValueError as error:
        raise _unlike(path, error) from error
    if METADATA_KEY not in metadata:
        raise CxrsegError(path, "is an ONNX model but not one of cxrseg's", EXPORT_AGAIN)
    try:
        card = ModelCard.from_json(metadata[METADATA_KEY])
        if len(set(card.labels)) != len(card.labels):
            raise ValueError("it names a label twice")
    # RecursionError and OverflowError: a hostile card's nesting and numbers.
    except (ValueError, RecursionError, OverflowError) as error:
        raise CxrsegError(
            path,
            f"has a model card that cannot be used ({str(error)[:200]})",
            "update cxrseg, or " + EXPORT_AGAIN,
        ) from error
    return card, metadata.get(REFERENCE_KEY)


def _metadata(data: bytes) -> dict[str, str]:
    """Return the metadata of an ONNX file: its `ModelProto.metadata_props`."""
    model = read_message(memoryview(data), MAX_FIELDS)
    if _GRAPH not in model:
        raise ValueError("no graph")
    metadata: dict[str, str] = {}
    for entry in messages(model, _METADATA):
        fields = read_message(entry, MAX_FIELDS)
        key = text(fields, 1)
        if key in metadata:
            raise ValueError(f"metadata {key!r} twice")
        metadata[key] = text(fields, 2)
    return metadata


def check_model(path: Path, data: bytes, card: ModelCard) -> None:
    """Look a model file through: what is in it, what it takes and gives, and how much it computes.

    Args:
        path: Where the file lies, for messages.
        data: The file.
        card: Its card.

    Raises:
        CxrsegError: It is not as `cxrseg-export` writes it, or not as its card says.
    """
    from cxrseg.runtime.inference.bounds import check_bounds
    from cxrseg.runtime.inference.onnx_graph import read_graph

    size, channels = card.preprocessing.size, len(card.labels)
    try:
        graph = read_graph(data)
        _check_port("input", graph.inputs, INPUT, [1, size, size], path)
        _check_port("output", graph.outputs, OUTPUT, [channels, size // 4, size // 4], path)
        check_bounds(graph, size, channels)
    except ValueError as error:
        raise _unlike(path, error) from error


def _unlike(path: Path, error: ValueError) -> CxrsegError:
    cause = f"is not a model of cxrseg-export: it has {str(error)[:200]}"
    return CxrsegError(path, cause, EXPORT_AGAIN)


def _check_port(
    kind: str, ports: tuple[Port, ...], name: str, shape: list[int], path: Path
) -> None:
    """Refuse anything but one port called `name`, float32 [N or 1, *shape]."""
    from cxrseg.runtime.inference.onnx_graph import FLOAT

    wanted = f"{name} float32 {['N', *shape]}".replace("'", "")
    actual = ", ".join(f"{port.name} (type {port.kind}) {list(port.shape)}" for port in ports)
    fits = (
        len(ports) == 1
        and ports[0].name == name
        and ports[0].kind == FLOAT
        and len(ports[0].shape) == 4
        and (ports[0].shape[0] == 1 or not isinstance(ports[0].shape[0], int))
        and list(ports[0].shape[1:]) == shape
    )
    if not fits:
        cause = f"its {kind} is not as its model card says: {actual[:200]} instead of {wanted}"
        raise CxrsegError(path, cause, EXPORT_AGAIN)
