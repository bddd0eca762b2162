"""Wakes the loop of a worker from threads of its engine."""

from __future__ import annotations

import contextlib
import socket


class WakeUp:
    """A pair of sockets: any thread sends, and the loop polls ``readable``."""

    def __init__(self) -> None:
        self.readable, self._sender = socket.socketpair()
        self.readable.setblocking(False)
        self._sender.setblocking(False)

    def send(self) -> None:
        """Makes ``readable`` readable."""
        with contextlib.suppress(OSError):  # it is full, hence readable; or the worker ends
            self._sender.send(b"1")

    def clear(self) -> None:
        """Reads what was sent."""
        with contextlib.suppress(BlockingIOError):
            self.readable.recv(64)

    def close(self) -> None:
        self.readable.close()
        self._sender.close()
