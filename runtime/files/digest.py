"""The hash by which files are known again."""

from __future__ import annotations

import hashlib
import os

from cxrseg.runtime.files.opening import open_file


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, lower-case hex.

    Raises:
        OSError: As `open_file`.
    """
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
