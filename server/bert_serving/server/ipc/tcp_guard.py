"""The connections that a port of this process has accepted: what came in by them, and how they are cut.

ZeroMQ bounds the size of a frame and the number of messages that wait unread. It bounds neither the number of frames
in a message nor, so, what is kept of a message whose end never comes. How much that is shows from outside: Linux
counts the bytes that came in by a connection, and who reads its messages knows how many of them have come out again.
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

#: Where the number of received bytes is in Linux's ``struct tcp_info``.
_BYTES_RECEIVED = 128
#: Bytes of a frame's header, short and long; and of what encryption adds to a frame.
_SHORT, _LONG, _ENCRYPTED = 2, 9, 33
#: All connections together may hold so many times what one may.
_OF_ALL = 8
#: Bytes a second that say nothing, such as signs of life.
_IDLE_RATE = 1024


@dataclass(slots=True)
class _Peer:
    """A connection. ``taken`` is what had been read from its descriptor's number when it was new."""

    address: Any
    since: float
    taken: int
    times: int = 0


class ConnectionMonitor:
    """Finds connections from which much more has come in than messages were read. Without Linux it finds none.

    Args:
        port: where this process listens.
        is_encrypted: whether frames come encrypted.
        times: a connection is cut after it held too much so many times in a row. Where messages are read, once may be
            a moment at which much is on its way.
    """

    def __init__(self, port: int, is_encrypted: bool, times: int = 2) -> None:
        self._port, self._times = port, times
        self._around = _ENCRYPTED if is_encrypted else 0
        self._peers: dict[int, _Peer] = {}
        self._taken: dict[int, int] = {}  # by descriptor
        self._taken_before: dict[int, int] = {}
        self._is_able = hasattr(socket, "TCP_INFO")

    def record(self, frames: Iterable[zmq.Frame]) -> None:
        """Counts a message that was read."""
        size, frame = 0, None
        for frame in frames:
            bare = len(frame) + self._around
            size += bare + (_SHORT if bare < 256 else _LONG)
        if frame is None:
            return
        try:
            source = int(frame.get(zmq.SRCFD))
        except zmq.ZMQError:
            self._is_able = False  # this build of ZeroMQ does not say where a message comes from
            return
        self._taken[source] = self._taken.get(source, 0) + size

    def close_abusive(self, limit: int, now: float) -> list[tuple[str, int]]:
        """Cuts connections that hold more than ``limit`` bytes; to be called about once a second.

        Returns:
            Address and bytes of each.
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
                # What was read since the last time may be of the one that had this number before: it counts for this
                # one, which so is never thought to hold more than it does.
                peer = _Peer(address, now, self._taken_before.get(number, 0))
            seen[number] = peer
            received: int = struct.unpack_from("<Q", info, _BYTES_RECEIVED)[0]
            size = received - (self._taken.get(number, 0) - peer.taken) - int((now - peer.since) * _IDLE_RATE)
            held.append((size, number, address[0]))
        self._peers = seen
        self._taken = {number: self._taken.get(number, 0) for number in seen}
        self._taken_before = self._taken.copy()
        return self._cut(held, limit)

    def _cut(self, held: list[tuple[int, int, str]], limit: int) -> list[tuple[str, int]]:
        cut = []
        total = sum(size for size, _, _ in held if size > 0)
        for size, number, host in sorted(held, reverse=True):
            peer = self._peers[number]
            if size <= limit and total <= _OF_ALL * limit:
                peer.times = 0
                continue
            total -= size
            peer.times += 1
            if peer.times >= self._times:
                cut.append((host, size))
                peer.times = 0
                close_accepted(self._port, peer.address)
        return cut


def close_accepted(port: int, address: Any = None) -> None:
    """Ends TCP connections that this process has accepted at a port; whoever holds one sees the end of the file.

    Args:
        address: of the other end; None ends all.

    Raises:
        OSError: this system does not list open files.
    """
    for _, sock, peer in _accepted(port):
        if address is None or peer == address:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _accepted(port: int) -> Iterator[tuple[int, socket.socket, Any]]:
    """Descriptor, socket and the other end's address of each connection that was accepted at a port."""
    for name in os.listdir("/dev/fd"):
        try:
            copy = os.dup(int(name))
        except OSError:
            continue  # the one that listed the folder
        try:
            sock = socket.socket(fileno=copy)
        except OSError:
            os.close(copy)  # a file of another kind
            continue
        with sock:
            try:
                address = sock.getsockname()
                if not isinstance(address, tuple) or address[1] != port:
                    continue
                peer = sock.getpeername()  # an error for the one that listens
            except OSError:
                continue
            yield int(name), sock, peer
