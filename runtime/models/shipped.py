"""The model that ships with the package."""

from __future__ import annotations

from pathlib import Path

from cxrseg.runtime.core.errors import CxrsegError

DEFAULT_MODEL = "cxrseg-vit_t-int8.onnx"
"""File name of the model used when none is named."""

SHIPPED_SHA256 = "2dace619e98a0b48a7204dc96d417532221414e012f0e18fd49175020a10c562"
"""SHA-256 of that file, lower-case hex."""


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


def is_shipped(path: Path) -> bool:
    """Tell whether this is the path of the model that ships, whatever lies there."""
    home = Path(__file__).parent
    return path.name == DEFAULT_MODEL and path.parent.resolve() == home.resolve()


def require_unshipped(path: Path) -> None:
    """Refuse a file in the place of the model that ships, of which it is known not to be that one.

    Raises:
        CxrsegError: It lies there.
    """
    if is_shipped(path):
        cause = f"is not the file that ships with cxrseg: its SHA-256 is not {SHIPPED_SHA256}"
        raise CxrsegError(path, cause, "reinstall cxrseg")
