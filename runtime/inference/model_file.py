"""Reading a model file."""

from __future__ import annotations

from pathlib import Path

from cxrseg.runtime.core.errors import CxrsegError

MAX_MODEL_BYTES = 2_000_000_000
"""Largest model file accepted; ONNX itself ends at 2 GiB."""

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
        size = path.stat().st_size
        if size > MAX_MODEL_BYTES:
            cause = f"is too large for a model ({size / 1e9:.1f} GB)"
            raise CxrsegError(path, cause, EXPORT_AGAIN)
        return path.read_bytes()
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise CxrsegError(path, f"cannot be read ({cause})", "check the permissions") from error
