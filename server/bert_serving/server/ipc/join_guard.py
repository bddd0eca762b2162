"""Limits the connections of a join port, and the bytes that each holds in messages without an end."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import zmq

from .connection_monitor import SLICE_INTERVAL, ConnectionMonitor
from .descriptors import ConnectionLimit

#: Seconds between two checks of the connections.
_CHECK_INTERVAL = 1.0


class JoinGuard:
    """Watches the connections of one port.

    Args:
        max_bytes: bytes that one connection may hold unread.
    """

    def __init__(self, port: int, is_encrypted: bool, max_bytes: int, log: logging.Logger) -> None:
        self._limit = ConnectionLimit(port, log)
        self._connections = ConnectionMonitor(port, is_encrypted)
        self._port, self._max_bytes, self._log = port, max_bytes, log
        self._next_check = 0.0

    def record(self, frames: Iterable[zmq.Frame]) -> None:
        """Counts the bytes of a message that was read."""
        self._connections.record(frames)

    def check(self, now: float) -> None:
        """Closes connections beyond the limits. Call it often."""
        self._limit.check(now)
        if now < self._next_check:
            return
        closed = self._connections.close_abusive(self._max_bytes, now)
        self._next_check = now + (SLICE_INTERVAL if self._connections.is_checking else _CHECK_INTERVAL)
        self._connections.log_dead_peers(self._log)
        for host, size in closed:
            self._log.warning(
                "closed the connection from %s to port %d: %d bytes without a complete message (limit %d)",
                host,
                self._port,
                size,
                self._max_bytes,
            )
