"""Writing a quality reference into a model file."""

from __future__ import annotations

from pathlib import Path

import onnx

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.model_card import METADATA_KEY, REFERENCE_KEY
from cxrseg.runtime.files.atomic import atomic_write
from cxrseg.runtime.inference.model_file import read_bytes
from cxrseg.runtime.quality.reference import Reference


def attach(reference: Reference, model: Path, output: Path) -> None:
    """Write a copy of a model file with this quality reference, in place of one that it has.

    Nothing else in the file changes.

    Args:
        reference: Fitted to this model.
        model: The ONNX file.
        output: The file to write; may be `model`, which is replaced in one step.

    Raises:
        CxrsegError: The model cannot be read or is none of cxrseg's, or the output cannot be
            written.
    """
    try:
        proto = onnx.ModelProto.FromString(read_bytes(model))
        metadata = {entry.key: entry.value for entry in proto.metadata_props}
        del proto.metadata_props[:]
        for key, value in {**metadata, REFERENCE_KEY: reference.to_json()}.items():
            proto.metadata_props.add(key=key, value=value)
        data = proto.SerializeToString()
    except CxrsegError:
        raise
    # What protobuf raises has no types that mypy knows, and no base class of the language's own.
    except Exception as error:
        cause = f"cannot be read as a model ({error})"
        raise CxrsegError(model, cause, "use a model written by cxrseg-export") from error
    if METADATA_KEY not in metadata:
        cause = "is an ONNX model but not one of cxrseg's"
        raise CxrsegError(model, cause, "use a model written by cxrseg-export")
    with atomic_write(output) as temporary:
        temporary.write_bytes(data)
