"""Closes the TCP connection of a socket whose server is unreachable, so that ZeroMQ connects again."""

from __future__ import annotations

import _socket
import contextlib
import os
import socket

from ..dead_peer import INFO_BYTES, DeadPeerDetector


class PeerWatch:
    """Watches the connection of one socket. ZeroMQ's monitor reports the descriptor."""

    def __init__(self) -> None:
        self._detector = DeadPeerDetector()
        self._descriptor = -1
        self._ends: tuple[object, object] | None = None  # both addresses; None without a connection

    @property
    def is_connected(self) -> bool:
        return self._ends is not None

    def on_connected(self, descriptor: int) -> None:
        """Begins to watch a new connection."""
        self._detector, self._descriptor, self._ends = DeadPeerDetector(), descriptor, None
        if hasattr(socket, "TCP_INFO"):
            with contextlib.suppress(OSError), self._duplicate() as copy:
                self._ends = copy.getsockname(), copy.getpeername()

    def is_dead(self, now: float) -> bool:
        """Returns whether the peer acknowledges nothing; see `DeadPeerDetector`."""
        with contextlib.suppress(OSError), self._own() as copy:
            info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO_BYTES)
            return len(info) == INFO_BYTES and self._detector.is_dead(info, now)
        self._ends = None
        return False

    def close(self) -> None:
        """Ends the connection. ZeroMQ notices it, reports it and connects again."""
        with contextlib.suppress(OSError), self._own() as copy:
            copy.shutdown(socket.SHUT_RDWR)
        self._ends = None

    def _own(self) -> _Copy:
        """Duplicates the descriptor.

        Raises:
            OSError: ZeroMQ has closed it; the number may belong to another file now.
        """
        copy = self._duplicate()
        try:
            if self._ends != (copy.getsockname(), copy.getpeername()):
                raise OSError("the descriptor belongs to another connection")
        except BaseException:
            copy.close()
            raise
        return copy

    def _duplicate(self) -> _Copy:
        number = os.dup(self._descriptor)
        try:
            return _Copy(fileno=number)
        except BaseException:
            os.close(number)
            raise


class _Copy(_socket.socket):
    """A socket that closes its descriptor at the end of a ``with`` block.

    gevent and eventlet replace ``socket.socket`` by a class that registers each descriptor; this is their base.
    """

    def __enter__(self) -> _Copy:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
