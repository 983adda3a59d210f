"""The one exception that a user is meant to read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec

_MAX_CAUSE = 600


class CxrsegError(Exception):
    """A failure that the user can act on, in one line: subject, cause, remedy.

    Args:
        subject: The file, option or thing at fault.
        cause: What is wrong with it; cut off where it quotes too much of a file.
        remedy: What to do about it; may be empty.
    """

    def __init__(self, subject: str | os.PathLike[str], cause: str, remedy: str = "") -> None:
        self.subject = os.fspath(subject)
        self.cause = cause if len(cause) <= _MAX_CAUSE else f"{cause[:_MAX_CAUSE]}..."
        self.remedy = remedy
        text = f"{self.subject}: {self.cause}"
        # One line whatever a library's own message held.
        super().__init__(" ".join((f"{text}; {remedy}" if remedy else text).split()))

    def __reduce__(self) -> tuple[type[CxrsegError], tuple[str, str, str]]:
        # Made again from its parts where another process takes it over.
        return CxrsegError, (self.subject, self.cause, self.remedy)


def unreadable(path: str | os.PathLike[str], error: Exception) -> CxrsegError:
    """Return the error of a file that cannot be opened or read, for what the system says of it."""
    cause = getattr(error, "strerror", None) or str(error)
    return CxrsegError(path, f"cannot be read ({cause})", "check the name and the permissions")


def require_extra(command: str, extra: str, modules: Sequence[str]) -> None:
    """Check that the packages of an extra are installed, without importing them.

    Args:
        command: The command that needs them.
        extra: Name of the extra that brings them.
        modules: Top-level modules that must be importable.

    Raises:
        CxrsegError: Some are missing; the message says what to install.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        cause = f"needs packages that are not installed ({', '.join(missing)})"
        raise CxrsegError(command, cause, f'pip install "cxrseg[{extra}]"')
