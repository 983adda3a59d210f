"""Loaded by every Python that starts with this folder on its path: forbids and notes networking."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

LOG = os.environ["CXRSEG_TEST_NETWORK_LOG"]
"""File that gets one line per attempt, of child processes as well."""

# Events whose first argument is a socket (Python's audit events table).
_ON_SOCKETS = ("socket.bind", "socket.connect", "socket.sendto", "socket.sendmsg")
_ALWAYS = (
    *("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"),
    *("urllib.Request", "http.client.connect", "ftplib.connect", "smtplib.connect"),
)


def _watch(event: str, args: tuple[Any, ...]) -> None:
    # Sockets of the file system stay on the machine: processes talk to each other by them.
    outward = event in _ON_SOCKETS and args[0].family != getattr(socket, "AF_UNIX", None)
    if outward or event in _ALWAYS:
        with Path(LOG).open("a") as log:
            log.write(f"{event} {args[1:]}\n")
        raise PermissionError(f"forbidden in this test: {event}")


sys.addaudithook(_watch)
