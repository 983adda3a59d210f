"""The one exception that a user is meant to read."""

from __future__ import annotations

import os


class CxrsegError(Exception):
    """A failure that the user can act on, told in one line: subject, cause, remedy.

    Args:
        subject: The file, option or thing at fault.
        cause: What is wrong with it.
        remedy: What to do about it; may be empty.
    """

    def __init__(self, subject: str | os.PathLike[str], cause: str, remedy: str = "") -> None:
        self.subject = os.fspath(subject)
        self.cause = cause
        self.remedy = remedy
        text = f"{self.subject}: {cause}"
        # One line whatever a library's own message held.
        super().__init__(" ".join((f"{text}; {remedy}" if remedy else text).split()))

    def __reduce__(self) -> tuple[type[CxrsegError], tuple[str, str, str]]:
        # Made again from its parts where another process takes it over.
        return CxrsegError, (self.subject, self.cause, self.remedy)
