"""Receives requests from clients, and closes connections that send endless messages or are dead.

While the server is full, it leaves the messages of its connections unread. A command of a new client would wait behind
them. So the port moves to a spare socket, which has the new connections only and is read on.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

import zmq

from ..ipc.connection_monitor import SLICE_INTERVAL, ConnectionMonitor
from ..ipc.descriptors import ConnectionLimit
from ..ipc.frame_guard import FrameGuard
from ..ipc.process_context import ProcessContext
from ..ipc.shared_port import MovablePort
from ..security.curve import CurveAuth
from .request_socket import TOO_LARGE_BYTES, UNREAD_MESSAGES, RequestSocket

#: Seconds between two checks of the connections, also while messages are unread.
CHECK_INTERVAL, UNREAD_CHECK_INTERVAL = 1.0, 0.2
#: Number of spare sockets.
NUM_SPARES = 7
#: Part of ``-queue_memory`` that requests from one spare socket may take while the server is full.
SPARE_SHARE = 1 / 64
#: Seconds for which the server must be full until the port moves, and not full until it moves back.
MOVE_AFTER, RETURN_AFTER = 0.2, 1.0


class Frontend:
    """Owns the sockets on the request port.

    Attributes:
        connection_limit: closes connections when descriptors run out.
        next_check: time of the next ``check_connections``, in monotonic seconds.
    """

    def __init__(self, context: ProcessContext, max_bytes: int, frames: FrameGuard) -> None:
        config = context.config
        self._log = context.log
        self._max_message_bytes, self._share = config.max_message_bytes, SPARE_SHARE * max_bytes
        self._connections = ConnectionMonitor(config.port, is_encrypted=config.auth_keys is not None)
        self._frames = frames
        frames.watch(self._connections)
        self.connection_limit = ConnectionLimit(config.port, context.log)
        self.next_check = 0.0
        self._is_full = False
        self._full_since, self._free_since = inf, inf
        self._all = [RequestSocket(context, self._connections) for _ in range(1 + NUM_SPARES)]
        self._used = self._all[:1]  # those that have had the port; the others have no connections
        sockets = [each.socket for each in self._all]
        CurveAuth(**context.options["access"], warn=context.log.warning).apply(context.context, *sockets)
        self._port = MovablePort(sockets, config.host, config.port)

    def close(self) -> None:
        """Releases the port. ZeroMQ closes the sockets with their context."""
        self._port.close()

    @property
    def unread_bytes(self) -> int:
        """Bytes that were unread at the last check, without those that were read since. 0 if they are unknown."""
        return self._connections.unread_bytes

    @property
    def has_read_all(self) -> bool:
        """Whether no complete message was left unread when the sockets were last read or polled."""
        return all(each.has_read_all for each in self._used)

    @property
    def is_checking(self) -> bool:
        """Whether a check of the connections is unfinished."""
        return self._connections.is_checking

    def register(self, poller: zmq.Poller, is_full: bool, now: float) -> None:
        """Lets a poller poll the sockets that are read; moves the port if the server is, or was, full."""
        self._is_full = is_full
        self._move(now)
        for each in self._used:
            poller.register(each.socket, zmq.POLLIN if self.is_read(each) else 0)

    def readable(self, events: dict[object, int]) -> Iterator[RequestSocket]:
        """Yields the sockets that have messages."""
        for each in self._used:
            if each.socket in events:
                yield each
            else:
                each.has_read_all = self.is_read(each)

    def is_read(self, sock: RequestSocket) -> bool:
        """Whether messages of a socket are read now."""
        return not self._is_full or self.may_exceed(sock)

    def may_exceed(self, sock: RequestSocket) -> bool:
        """Whether requests from a socket are accepted although the server is full."""
        return sock is not self._all[0] and sock.late_bytes < self._share

    def _move(self, now: float) -> None:
        if self._is_full:
            self._free_since = inf
            self._full_since = min(self._full_since, now)
            if (
                self._port.is_movable
                and now - self._full_since >= MOVE_AFTER
                and not self.is_read(self._all[self._port.current])
            ):
                spare = next((number for number, each in enumerate(self._all) if self.is_read(each)), None)
                if spare is not None:
                    self._port.move(spare)
                    self._used = self._all[: max(len(self._used), spare + 1)]
        elif self._full_since != inf:
            self._free_since = min(self._free_since, now)
            if now - self._free_since >= RETURN_AFTER:
                self._full_since = inf
                self._port.move(0)
                for each in self._used:
                    each.late_bytes = 0

    def check_connections(self, now: float, held_bytes: int, max_bytes: int) -> None:
        """Closes connections that send messages without an end, and those whose peer is unreachable.

        If all messages were read, a connection holds a part of one message. If the server is full, complete messages
        stay unread too, so the limit is ``UNREAD_MESSAGES`` times as high.

        Args:
            held_bytes: memory of the requests in progress.
            max_bytes: limit of all connections together, if it is above that of one connection.
        """
        limit = self._max_message_bytes + 2 * TOO_LARGE_BYTES
        has_read_all = self.has_read_all
        if not has_read_all:
            limit *= UNREAD_MESSAGES
        for host, size in self._connections.close_abusive(limit, now, max(limit, max_bytes)):
            self._log.warning(
                "closed the connection from %s: %d bytes without a complete message (limit %d)", host, size, limit
            )
        self._connections.log_dead_peers(self._log)
        if not self.is_checking:
            self._frames.check(held_bytes, now)
        interval = UNREAD_CHECK_INTERVAL if self._frames.is_growing or not has_read_all else CHECK_INTERVAL
        self.next_check = now + (SLICE_INTERVAL if self.is_checking else interval)
        for each in self._used:
            each.has_read_all = False
