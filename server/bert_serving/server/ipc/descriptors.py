"""Limits the connections of a process by its file descriptors.

ZeroMQ accepts connections until no descriptor is free, and then tries again without a pause. A restarted process could
not connect any more. So the newest connections are closed while few descriptors are left; the others are served.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource

from .connection_monitor import close_accepted

#: Descriptors that are left for connections between the server's processes, files and new connections until a check.
RESERVE = 64
#: Seconds between two checks, and between two log lines.
CHECK_INTERVAL, LOG_INTERVAL = 0.1, 60.0
#: Inode of a connection that is closed.
CLOSED = -1
#: Limit where the system names none.
_UNLIMITED = 2**20


def raise_descriptor_limit() -> None:
    """Raises the soft limit of open files to the hard one; systems with another maximum keep theirs."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptor_limit(is_hard: bool = False) -> int:
    """Returns the limit of open files of this process."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[is_hard]
    return _UNLIMITED if limit == resource.RLIM_INFINITY else limit


def inode(descriptor: int) -> int:
    """Returns the inode of an open descriptor, or ``CLOSED``."""
    try:
        return os.fstat(descriptor).st_ino
    except OSError:
        return CLOSED


class ConnectionLimit:
    """Closes the newest connections of a port while at most ``RESERVE`` descriptors are free.

    A new descriptor has the lowest free number. So descriptors above a number are in use only if all below it were.
    """

    def __init__(self, port: int, log: logging.Logger) -> None:
        self._port, self._log = port, log
        self._next_check, self._next_log = 0.0, 0.0

    def check(self, now: float) -> None:
        """Closes connections beyond the limit. Call it often; a check that finds none takes microseconds."""
        if now < self._next_check:
            return
        self._next_check = now + CHECK_INTERVAL
        limit = descriptor_limit()
        if _lowest_free(limit) < limit - RESERVE:
            return
        num_closed = close_accepted(self._port, range(limit - RESERVE, limit))
        if num_closed and now >= self._next_log:
            self._next_log = now + LOG_INTERVAL
            self._log.warning(
                "closed %d new connections: %d open files are the limit of this process; raise it (ulimit -Hn), or "
                "connect fewer clients",
                num_closed,
                limit,
            )


def _lowest_free(limit: int) -> int:
    try:
        number = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return limit
    os.close(number)
    return number
