"""Receives requests from clients, and closes connections that send endless messages or are dead."""

from __future__ import annotations

from collections.abc import Iterator

import zmq

from ..ipc.descriptors import ConnectionLimit
from ..ipc.process_context import ProcessContext
from ..ipc.sockets import bind_tcp, is_readable, keep_alive
from ..ipc.tcp_guard import SLICE_INTERVAL, ConnectionMonitor
from ..security.curve import CurveAuth

#: Bytes above ``-max_message_bytes`` up to which a message gets an error reply. ZeroMQ rejects a larger message unread.
TOO_LARGE_BYTES = 64 * 2**20
#: Number of complete messages that a connection may hold unread. ZeroMQ leaves further ones with the sender.
UNREAD_MESSAGES = 4
#: Seconds between two checks of the connections, also while messages are unread.
CHECK_INTERVAL, UNREAD_CHECK_INTERVAL = 1.0, 0.2
#: Bytes of messages that are read before the loop serves the other sockets.
BURST_BYTES = 2**22
#: Frames that are read before the loop serves the other sockets. A message of as many frames is dropped.
FRAMES_PER_STEP = 4096


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
        self._is_dropping = False  # the rest of a message of too many frames
        self.socket = context.context.socket(zmq.PULL)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVHWM, UNREAD_MESSAGES)
        # ZeroMQ closes the connection of a larger message. Slightly above the limit, an error reply is still possible.
        self.socket.setsockopt(zmq.MAXMSGSIZE, config.max_message_bytes + TOO_LARGE_BYTES)
        # ZeroMQ heartbeats do not work here: their
        # replies queue behind the data that stays unread while the server is full.
        keep_alive(self.socket)
        CurveAuth(**context.options["access"], warn=context.log.warning).apply(context.context, self.socket)
        bind_tcp(self.socket, config.host, config.port)

    @property
    def unread_bytes(self) -> int:
        """Bytes that were unread at the last check, without those that were read since. 0 if they are unknown."""
        return self._connections.unread_bytes

    def receive(self, limit: int) -> Iterator[list[zmq.Frame]]:
        """Yields up to ``limit`` messages. Call it when the socket is readable; the caller may stop early."""
        self.has_read_all = False
        size = 0
        for _ in range(limit):
            frames = self._read_step()
            if frames is None:
                break
            self._connections.record(frames)
            yield frames
            size += sum(map(len, frames))
            if size >= BURST_BYTES or not is_readable(self.socket):
                break
        self.has_read_all = not is_readable(self.socket)

    @property
    def is_checking(self) -> bool:
        """Whether a check of the connections is unfinished."""
        return self._connections.is_checking

    def _read_step(self) -> list[zmq.Frame] | None:
        """Reads the frames of a message; None if there is no message, or none that is read to its end.

        ZeroMQ reads no other connection before the last frame of a message. So the frames of an endless message are
        read step by step and dropped.
        """
        frames: list[zmq.Frame] = []
        for _ in range(FRAMES_PER_STEP):
            try:
                frame = self.socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return None
            if not frame.more:
                if not self._is_dropping:
                    return [*frames, frame]
                self._is_dropping = False
                return None
            if not self._is_dropping:
                frames.append(frame)
        if not self._is_dropping:
            self._is_dropping = True
            host = self._connections.close_source(frames[0])
            self._log.warning("closed the connection from %s: a message of more than %d frames", host, FRAMES_PER_STEP)
        return None

    def check_connections(self, now: float, max_bytes: int) -> None:
        """Closes connections that send messages without an end, and those whose peer is unreachable.

        If all messages were read, a connection holds a part of one message. If the server is full, complete messages
        stay unread too, so the limit is ``UNREAD_MESSAGES`` times as high.

        Args:
            max_bytes: limit of all connections together, if it is above that of one connection.
        """
        limit = self._max_message_bytes + 2 * TOO_LARGE_BYTES
        if not self.has_read_all:
            limit *= UNREAD_MESSAGES
        for host, size in self._connections.close_abusive(limit, now, max(limit, max_bytes)):
            self._log.warning(
                "closed the connection from %s: %d bytes without a complete message (limit %d)", host, size, limit
            )
        self._connections.log_dead_peers(self._log)
        interval = CHECK_INTERVAL if self.has_read_all else UNREAD_CHECK_INTERVAL
        self.next_check = now + (SLICE_INTERVAL if self.is_checking else interval)
        self.has_read_all = False
