"""Accepts connections in bounded steps.

A connection without data is only a socket, because thousands may arrive at once. When its first data arrive, it gets a
transport and a protocol, which cost ten times as much. So a request that arrives with thousands of connections is not
delayed by them.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from functools import partial

from .connections import CHECK_INTERVAL, Connection, Connections

#: Maximum number of connections that are accepted before other events are handled. One takes about 20 microseconds.
MAX_ACCEPTED = 256
#: Seconds until the next attempt, if the operating system has no memory or files for a connection.
RETRY_SECONDS = 1.0

_log = logging.getLogger("uvicorn.error")


class Acceptor:
    """Accepts the connections of one listening socket. Runs in the thread of the event loop.

    Args:
        make_connection: makes the protocol of a connection; the argument tells whether it is within the limit.
    """

    def __init__(
        self, listener: socket.socket, connections: Connections, make_connection: Callable[[bool], Connection]
    ) -> None:
        self._listener, self._connections, self._make_connection = listener, connections, make_connection
        self._loop = asyncio.get_running_loop()
        self._silent: dict[socket.socket, float] = {}  # connections without data, and when they are closed
        self._tasks: set[asyncio.Task[None]] = set()
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept)
        self._close_expired()

    def close(self) -> None:
        """Accepts no further connections."""
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def _close_expired(self) -> None:
        """Closes connections that sent nothing within the time of ``-http_keep_alive``."""
        now = time.monotonic()
        while self._silent and next(iter(self._silent.values())) <= now:
            sock = next(iter(self._silent))
            self._remove(sock)
            sock.close()
            self._connections.num_open -= 1
        self._loop.call_later(CHECK_INTERVAL, self._close_expired)

    def _accept(self) -> None:
        for _ in range(MAX_ACCEPTED):
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.error("cannot accept HTTP connections (%s); next attempt in %g s", error.strerror, RETRY_SECONDS)
                self._loop.remove_reader(self._listener)
                self._loop.call_later(RETRY_SECONDS, self._loop.add_reader, self._listener, self._accept)
                return
            sock.setblocking(False)
            if self._connections.num_open >= self._connections.limit:
                self._open(sock, False)
                continue
            self._connections.num_open += 1
            self._silent[sock] = time.monotonic() + self._connections.keep_alive
            self._loop.add_reader(sock, self._on_data, sock)

    def _on_data(self, sock: socket.socket) -> None:
        self._remove(sock)
        self._open(sock, True)

    def _open(self, sock: socket.socket, is_admitted: bool) -> None:
        task = self._loop.create_task(self._connect(sock, is_admitted))
        self._tasks.add(task)  # the loop holds tasks by weak references
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, sock: socket.socket, is_admitted: bool) -> None:
        try:
            await self._loop.connect_accepted_socket(partial(self._make_connection, is_admitted), sock)
        except OSError as error:  # the client has closed the connection
            _log.debug("an HTTP connection ended at its start: %s", error)
            sock.close()
            self._connections.num_open -= is_admitted

    def _remove(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock)
        del self._silent[sock]
