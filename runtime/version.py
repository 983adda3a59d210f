"""The version of the installed package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """Return the version of cxrseg, or ``unknown`` in a source tree that was never installed."""
    try:
        return version("cxrseg")
    except PackageNotFoundError:
        return "unknown"
