"""The version of the package."""

from __future__ import annotations

# Stated here, because reading the installed metadata would cost a tenth of a second at every
# start. A test holds it to the version in setup.cfg.
VERSION = "0.1.0"
"""Version of cxrseg."""


def package_version() -> str:
    """Return the version of cxrseg."""
    return VERSION
