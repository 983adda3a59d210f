"""What the extra ``export`` brings, and the check that it is installed."""

from __future__ import annotations

from cxrseg.runtime.core.errors import require_extra

MODULES = ("torch", "segment_anything", "peft", "onnx", "onnxscript", "onnx_ir", "pydantic")


def require_export(command: str) -> None:
    """Check that a command's packages are installed, without importing them.

    Raises:
        CxrsegError: Some are missing; the message says what to install.
    """
    require_extra(command, "export", MODULES)
