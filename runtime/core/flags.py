"""Reasons to look at a result before using it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Flag:
    """A reason to look at a result before using it.

    Attributes:
        code: Stable name for programs, e.g. ``no_lung``.
        reason: The same for people; holds nothing of the patient.
        value: What was measured; None where nothing was, as for what a file says of itself.
        threshold: What it was compared with, or None.
    """

    code: str
    reason: str
    value: float | None = None
    threshold: float | None = None
