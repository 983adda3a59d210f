"""Where the checkout and the shared data lie."""

from __future__ import annotations

from pathlib import Path

REPO = Path(__file__).parents[2]
"""The checkout."""

DATA = REPO.parent / "shared/data"
"""Real X-rays, where they are present; never committed."""
