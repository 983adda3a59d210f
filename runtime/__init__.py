"""Lungs on chest X-rays from one ONNX file: no PyTorch, no network.

    >>> from cxrseg.runtime import Segmenter
    >>> result = Segmenter().segment("chest.png")
    >>> result.mask  # uint8 [H, W]: 0 = background, 1 = right lung, 2 = left lung

Names are loaded at first use, so that importing the package is instant and free of ONNX Runtime.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Since 1.29 ONNX Runtime reports its use to Microsoft from Linux and macOS, and keeps an identifier
# of the machine, unless this is set before it is loaded. Child processes inherit it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

if TYPE_CHECKING:
    from cxrseg.runtime.core.errors import CxrsegError
    from cxrseg.runtime.core.flags import Flag
    from cxrseg.runtime.core.radiograph import Radiograph, Spacing
    from cxrseg.runtime.core.segmentation import Segmentation
    from cxrseg.runtime.readers.folders import find_images
    from cxrseg.runtime.readers.reading import read
    from cxrseg.runtime.segmenter import Segmenter
    from cxrseg.runtime.writers.writing import write

    __version__: str

__all__ = [
    "CxrsegError",
    "Flag",
    "Radiograph",
    "Segmentation",
    "Segmenter",
    "Spacing",
    "find_images",
    "read",
    "write",
]

_HOMES = {
    "CxrsegError": "core.errors",
    "Flag": "core.flags",
    "Radiograph": "core.radiograph",
    "Segmentation": "core.segmentation",
    "Segmenter": "segmenter",
    "Spacing": "core.radiograph",
    "find_images": "readers.folders",
    "read": "readers.reading",
    "write": "writers.writing",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("cxrseg.runtime.core.version").package_version()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"cxrseg.runtime.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
