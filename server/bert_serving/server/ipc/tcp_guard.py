"""Counts the bytes that connections of a port have received, and closes connections.

ZeroMQ limits the size of a frame and the number of unread messages. It does not limit the number of frames in a
message, and so not the memory of a message without an end. This module computes that memory for each connection. Linux
counts the received bytes, and the process counts the bytes of the messages that it has read.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import zmq

#: Offset of ``tcpi_bytes_received`` in ``struct tcp_info`` (linux/tcp.h).
_BYTES_RECEIVED = 128
#: Bytes of a short and of a long frame header (ZMTP 3.1), and bytes that CURVE adds to a frame.
_SHORT, _LONG, _ENCRYPTED = 2, 9, 33
#: The limit of all connections together is this multiple of the limit of one.
_OF_ALL = 8
#: Bytes per second that are not counted, such as ZeroMQ's heartbeats.
_IDLE_RATE = 1024


@dataclass(slots=True)
class _Peer:
    """A connection. ``taken`` counts the bytes read from its descriptor number before it was accepted."""

    address: Any
    since: float
    taken: int
    times: int = 0


class ConnectionMonitor:
    """Finds connections that have received many more bytes than were read as messages; on Linux only.

    Args:
        port: port of this process.
        is_encrypted: whether frames are encrypted.
        times: number of checks in a row that must exceed the limit before a connection is closed. A single excess may
            be a burst of messages that are about to be read.
    """

    def __init__(self, port: int, is_encrypted: bool, times: int = 2) -> None:
        self._port, self._times = port, times
        self._overhead = _ENCRYPTED if is_encrypted else 0
        self._peers: dict[int, _Peer] = {}
        self._taken: dict[int, int] = {}  # by descriptor
        self._taken_before: dict[int, int] = {}
        self._is_able = hasattr(socket, "TCP_INFO")

    def record(self, frames: Iterable[zmq.Frame]) -> None:
        """Counts the bytes of a message that was read."""
        size, frame = 0, None
        for frame in frames:
            bare = len(frame) + self._overhead
            size += bare + (_SHORT if bare < 256 else _LONG)
        if frame is None:
            return
        try:
            source = int(frame.get(zmq.SRCFD))
        except zmq.ZMQError:
            self._is_able = False  # this build of ZeroMQ does not report the descriptor of a message
            return
        self._taken[source] = self._taken.get(source, 0) + size

    def close_abusive(self, limit: int, now: float) -> list[tuple[str, int]]:
        """Closes connections that hold more than ``limit`` bytes. Call it about once a second.

        Returns:
            Host and bytes of each closed connection.
        """
        if not self._is_able:
            return []
        held: list[tuple[int, int, str]] = []
        seen = {}
        for number, sock, address in _accepted(self._port):
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            if len(info) < _BYTES_RECEIVED + 8:
                self._is_able = False
                return []
            peer = self._peers.get(number)
            if peer is None or peer.address != address:
                # Bytes read since the last check may belong to the previous connection with this descriptor. They
                # count for the new one, whose bytes are then underestimated, never overestimated.
                peer = _Peer(address, now, self._taken_before.get(number, 0))
            seen[number] = peer
            received: int = struct.unpack_from("<Q", info, _BYTES_RECEIVED)[0]
            size = received - (self._taken.get(number, 0) - peer.taken) - int((now - peer.since) * _IDLE_RATE)
            held.append((size, number, address[0]))
        self._peers = seen
        self._taken = {number: self._taken.get(number, 0) for number in seen}
        self._taken_before = self._taken.copy()
        return self._close(held, limit)

    def _close(self, held: list[tuple[int, int, str]], limit: int) -> list[tuple[str, int]]:
        closed = []
        total = sum(size for size, _, _ in held if size > 0)
        for size, number, host in sorted(held, reverse=True):
            peer = self._peers[number]
            if size <= limit and total <= _OF_ALL * limit:
                peer.times = 0
                continue
            total -= size
            peer.times += 1
            if peer.times >= self._times:
                closed.append((host, size))
                peer.times = 0
                close_accepted(self._port, peer.address)
        return closed


def close_accepted(port: int, address: Any = None) -> None:
    """Shuts down TCP connections that this process has accepted at a port.

    Args:
        address: address of the peer; None closes all connections.

    Raises:
        OSError: the system does not list open files.
    """
    for _, sock, peer in _accepted(port):
        if address is None or peer == address:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _accepted(port: int) -> Iterator[tuple[int, socket.socket, Any]]:
    """Yields descriptor, socket and peer address of each connection that was accepted at a port."""
    for name in os.listdir("/dev/fd"):
        try:
            copy = os.dup(int(name))
        except OSError:
            continue  # the descriptor of the listing itself
        try:
            sock = socket.socket(fileno=copy)
        except OSError:
            os.close(copy)  # not a socket
            continue
        with sock:
            try:
                address = sock.getsockname()
                if not isinstance(address, tuple) or address[1] != port:
                    continue
                peer = sock.getpeername()  # raises for the listening socket
            except OSError:
                continue
            yield int(name), sock, peer
