"""Receives requests from clients, and closes connections that send endless messages."""

from __future__ import annotations

from collections.abc import Iterator

import zmq

from ..ipc.descriptors import ConnectionLimit
from ..ipc.process_context import ProcessContext
from ..ipc.sockets import bind_tcp, is_readable, keep_alive, recv_available
from ..ipc.tcp_guard import SLICE_INTERVAL, ConnectionMonitor
from ..security.curve import CurveAuth

#: Bytes above ``-max_message_bytes`` up to which a message gets an error reply. ZeroMQ rejects a larger message unread.
TOO_LARGE_BYTES = 64 * 2**20
#: Number of unread messages that a connection may hold while the server is too full to read.
UNREAD_MESSAGES = 4
#: Seconds between two checks of the connections.
CHECK_INTERVAL = 1.0


class Frontend:
    """Owns the socket on the request port.

    Attributes:
        connection_limit: closes connections when descriptors run out.
        has_read_all: no complete message was left unread when the socket was last read or polled.
        next_check: time of the next ``check_connections``, in monotonic seconds.
    """

    def __init__(self, context: ProcessContext) -> None:
        config = context.config
        self._log = context.log
        self._max_message_bytes = config.max_message_bytes
        self._connections = ConnectionMonitor(config.port, is_encrypted=config.auth_keys is not None)
        self.connection_limit = ConnectionLimit(config.port, context.log)
        self.next_check, self.has_read_all = 0.0, False
        self.socket = context.context.socket(zmq.PULL)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVHWM, 100)
        # ZeroMQ closes the connection of a larger message. Slightly above the limit, an error reply is still possible.
        self.socket.setsockopt(zmq.MAXMSGSIZE, config.max_message_bytes + TOO_LARGE_BYTES)
        # TCP keep-alive detects vanished peers and frees their buffers. ZeroMQ heartbeats do not work here: their
        # replies queue behind the data that stays unread while the server is full.
        keep_alive(self.socket)
        CurveAuth(**context.options["access"]).apply(context.context, self.socket)
        bind_tcp(self.socket, config.host, config.port)

    def receive(self, limit: int) -> Iterator[list[zmq.Frame]]:
        """Yields up to ``limit`` messages. Call it when the socket is readable; the caller may stop early."""
        self.has_read_all = False
        for frames in recv_available(self.socket, limit, copy=False):
            self._connections.record(frames)
            yield frames
        self.has_read_all = not is_readable(self.socket)

    @property
    def is_checking(self) -> bool:
        """Whether a check of the connections is unfinished."""
        return self._connections.is_checking

    def check_connections(self, now: float) -> None:
        """Closes connections that send messages without an end.

        If all messages were read, a connection holds a part of one message. If the server is full, complete messages
        stay unread too, so the limit is ``UNREAD_MESSAGES`` times as high.
        """
        limit = self._max_message_bytes + 2 * TOO_LARGE_BYTES
        if not self.has_read_all:
            limit *= UNREAD_MESSAGES
        for host, size in self._connections.close_abusive(limit, now):
            self._log.warning(
                "closed the connection from %s: %d bytes without a complete message (limit %d)", host, size, limit
            )
        self.has_read_all = False
        self.next_check = now + (SLICE_INTERVAL if self.is_checking else CHECK_INTERVAL)
