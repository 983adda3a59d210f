"""The version of the package, stated here and nowhere else: setup.cfg reads it from this file."""

from __future__ import annotations

# A constant, because reading the installed metadata would cost a tenth of a second at every start.
VERSION = "0.2.0"
"""Version of cxrseg."""


def package_version() -> str:
    """Return the version of cxrseg."""
    return VERSION
