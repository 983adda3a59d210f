"""Running a command where it has no network, or where each connection is seen."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache


@cache
def namespace() -> list[str]:
    """Return what starts a command in an empty network namespace, nothing if that is forbidden."""
    command = ["unshare", "--net"]
    if not shutil.which("unshare"):
        return []
    return (
        command if subprocess.run([*command, "true"], capture_output=True).returncode == 0 else []
    )


@cache
def tracer() -> list[str]:
    """Return what starts a command under strace, without the log's name, nothing if forbidden."""
    command = ["strace", "--follow-forks", "--seccomp-bpf", "-qq"]
    command += ["--trace=bind,connect,sendto,sendmsg,sendmmsg", "--output"]
    if not shutil.which("strace"):
        return []
    works = subprocess.run([*command, os.devnull, "true"], capture_output=True).returncode == 0
    return command if works else []
