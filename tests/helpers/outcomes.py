"""What a command that a test called came to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Call = Callable[..., Any]


def refused(outcome: Any, code: int, *words: str) -> None:
    """Assert that a command ended with one line that says why."""
    assert outcome.code == code, outcome.err
    lines = [line for line in outcome.err.splitlines() if line.lower().startswith("error:")]
    assert len(lines) == 1, outcome.err
    for word in words:
        assert word in lines[0]
