"""The model that ships with the package."""

from __future__ import annotations

from pathlib import Path

from cxrseg.runtime.core.errors import CxrsegError

DEFAULT_MODEL = "cxrseg-vit_t-int8.onnx"
"""File name of the model used when none is named."""


def default_model() -> Path:
    """Return the path of the model that ships with the package.

    Raises:
        CxrsegError: This installation came without it.
    """
    path = Path(__file__).parent / DEFAULT_MODEL
    if not path.is_file():
        raise CxrsegError(
            DEFAULT_MODEL,
            "this installation of cxrseg holds no model file",
            "name one with --model FILE, or reinstall cxrseg",
        )
    return path
