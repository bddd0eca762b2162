"""Reads messages from one socket of the request port, in bounded steps."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import zmq

from ..ipc.connection_monitor import ConnectionMonitor
from ..ipc.frame_reader import FRAMES_PER_STEP, FrameReader
from ..ipc.process_context import ProcessContext
from ..ipc.sockets import is_readable, keep_alive

#: Bytes above ``-max_message_bytes`` up to which a message gets an error reply. ZeroMQ rejects a larger message unread.
TOO_LARGE_BYTES = 64 * 2**20
#: Number of complete messages that a connection may hold unread. ZeroMQ leaves further ones with the sender.
UNREAD_MESSAGES = 4
#: Bytes of messages that are read before the loop serves the other sockets.
BURST_BYTES = 2**22


class RequestSocket:
    """A PULL socket of the request port.

    Attributes:
        late_bytes: memory of the requests that were read from this socket while the server was full.
        has_read_all: no complete message was left unread when the socket was last read or polled.
    """

    def __init__(self, context: ProcessContext, connections: ConnectionMonitor) -> None:
        self._log: logging.Logger = context.log
        self._connections = connections
        self.late_bytes, self.has_read_all = 0, False
        self.socket = context.context.socket(zmq.PULL)
        self._reader = FrameReader(self.socket, self._on_too_many)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVHWM, UNREAD_MESSAGES)
        # ZeroMQ closes the connection of a larger message. Slightly above the limit, an error reply is still possible.
        self.socket.setsockopt(zmq.MAXMSGSIZE, context.config.max_message_bytes + TOO_LARGE_BYTES)
        # ZeroMQ heartbeats do not work here: their
        # replies queue behind the data that stays unread while the server is full.
        keep_alive(self.socket)

    def receive(self, limit: int) -> Iterator[list[zmq.Frame]]:
        """Yields up to ``limit`` messages. Call it when the socket is readable; the caller may stop early."""
        self.has_read_all = False
        size = 0
        for number in range(limit):
            frames = self._reader.read()
            if frames is None:
                break
            self._connections.record(frames)
            yield frames
            size += sum(map(len, frames))
            if size >= BURST_BYTES:
                break
            # A failed read takes as long as several of these tests, so the first one saves it for a single message.
            if number == 0 and not is_readable(self.socket):
                self.has_read_all = True
                return
        self.has_read_all = not is_readable(self.socket)

    def _on_too_many(self, frame: zmq.Frame) -> None:
        host = self._connections.close_source(frame)
        self._log.warning("closed the connection from %s: a message of more than %d frames", host, FRAMES_PER_STEP)
