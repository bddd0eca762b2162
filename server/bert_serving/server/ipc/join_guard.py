"""Reads a join port; limits its connections, and what each holds in messages without an end."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import zmq

from .connection_monitor import SLICE_INTERVAL, ConnectionMonitor
from .descriptors import ConnectionLimit
from .frame_guard import FrameGuard
from .frame_reader import FRAMES_PER_STEP, FrameReader
from .sockets import is_readable

#: Seconds between two checks of the connections, also while unread frames take much memory.
_CHECK_INTERVAL, _GROWING_INTERVAL = 1.0, 0.2


class JoinGuard:
    """Reads the socket of one port, and watches its connections.

    Args:
        sock: the socket of the port.
        max_bytes: bytes that one connection may hold unread.
        frames: guard of the memory of unread frames of this process.
    """

    def __init__(
        self,
        sock: zmq.Socket[bytes],
        port: int,
        is_encrypted: bool,
        max_bytes: int,
        frames: FrameGuard,
        log: logging.Logger,
    ) -> None:
        self._limit = ConnectionLimit(port, log)
        self._connections = ConnectionMonitor(port, is_encrypted)
        self._socket, self._reader = sock, FrameReader(sock, self._on_too_many)
        self._num_own = int(sock.type == zmq.ROUTER)  # frames that ZeroMQ puts in front
        self._port, self._max_bytes, self._log = port, max_bytes, log
        self._next_check = 0.0
        self._frames = frames
        frames.watch(self._connections)

    def receive(self, limit: int) -> Iterator[list[zmq.Frame]]:
        """Yields the available messages of the readable socket, at most ``limit``."""
        for _ in range(limit):
            frames = self._reader.read()
            if frames is None:
                return
            self._connections.record(frames[self._num_own :])
            yield frames
            if not is_readable(self._socket):
                return

    def _on_too_many(self, frame: zmq.Frame) -> None:
        host = self._connections.close_source(frame)
        self._log.warning(
            "closed the connection from %s to port %d: a message of more than %d frames",
            host,
            self._port,
            FRAMES_PER_STEP,
        )

    def check(self, now: float) -> bool:
        """Closes connections beyond the limits. Call it often. Returns whether it has examined all connections."""
        self._limit.check(now)
        if now < self._next_check:
            return False
        closed = self._connections.close_abusive(self._max_bytes, now)
        interval = _GROWING_INTERVAL if self._frames.is_growing else _CHECK_INTERVAL
        self._next_check = now + (SLICE_INTERVAL if self._connections.is_checking else interval)
        self._connections.log_dead_peers(self._log)
        for host, size in closed:
            self._log.warning(
                "closed the connection from %s to port %d: %d bytes without a complete message (limit %d)",
                host,
                self._port,
                size,
                self._max_bytes,
            )
        return not self._connections.is_checking
