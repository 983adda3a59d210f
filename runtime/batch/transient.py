"""Which failures may pass by themselves."""

from __future__ import annotations

import errno

# No space, in use, at the system's limits, a drive that is gone, no permission; not all systems
# have all.
_MAY_PASS = {
    getattr(errno, name, None)
    for name in (
        *("ENOSPC", "EDQUOT", "EBUSY", "ETXTBSY", "EAGAIN", "EDEADLK", "ENOLCK", "EINTR"),
        *("EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "EIO", "ESTALE", "ETIMEDOUT", "ENODEV", "ENXIO"),
        *("ENETDOWN", "ENETUNREACH", "ENETRESET", "EHOSTDOWN", "EHOSTUNREACH", "ENOTCONN"),
        *("ECONNABORTED", "ECONNRESET", "ECONNREFUSED", "ENOENT", "EROFS", "EACCES", "EPERM"),
    )
} - {None}


def may_pass(error: BaseException) -> bool:
    """Tell whether the system refused something that it may grant later, as space on a disk."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or getattr(cause, "errno", None) in _MAY_PASS:
            return True
        cause = cause.__cause__
    return False
