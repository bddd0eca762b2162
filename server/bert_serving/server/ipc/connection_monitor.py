"""Counts the bytes that connections of a port have received, and closes connections.

ZeroMQ limits the size of a frame and the number of unread messages. It does not limit the number of frames in a
message, and so not the memory of a message without an end. This module computes that memory for each connection. Linux
counts the received bytes, and the process counts the bytes of the messages that it has read.

The same check closes connections whose peer is unreachable.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import resource
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import zmq

from bert_serving.client.dead_peer import NO_ACK_SECONDS, DeadPeerDetector

from ..security.curve import plain_host

#: Offsets of ``tcpi_bytes_acked`` and ``tcpi_bytes_received`` in ``struct tcp_info`` (linux/tcp.h).
_BYTES_ACKED, _BYTES_RECEIVED = 120, 128
#: Bytes of a short and of a long frame header (ZMTP 3.1), and bytes that CURVE adds to a frame.
_SHORT, _LONG, _ENCRYPTED = 2, 9, 33
#: The limit of all connections together is this multiple of the limit of one.
_OF_ALL = 8
#: Descriptors that one call examines, and seconds until the next call of an unfinished check.
_SLICE, SLICE_INTERVAL = 256, 0.02
#: Bytes per second that are not counted, such as ZeroMQ's heartbeats.
_IDLE_RATE = 1024
#: Bytes that wait in a connection and are looked at, and the least number of them that shows what it sends.
_SAMPLE, _MIN_SAMPLE = 4096, 512
#: Values of the first byte of a frame are below 4; in a text, and in JSON, no byte is.
_NOT_FLAGS = bytes(range(4, 256))
# A plain number: converting a member of an enumeration takes longer than the call that it is for.
_SRCFD = int(zmq.SRCFD)


@dataclass(slots=True)
class _Peer:
    """A connection. ``taken`` counts the bytes read from its descriptor number before it was accepted."""

    address: Any
    since: float
    taken: int
    times: int = 0
    detector: DeadPeerDetector = field(default_factory=DeadPeerDetector)


class _Held(NamedTuple):
    """What a connection held at a check: bytes without an idle rate, its descriptor and host, and all bytes."""

    size: int
    number: int
    host: str
    total: int


class ConnectionMonitor:
    """Finds connections that have received many more bytes than were read as messages; on Linux only.

    Args:
        port: port of this process; also an attribute.
        is_encrypted: whether frames are encrypted.
        times: number of checks in a row that must exceed the limit before a connection is closed. A single excess may
            be a burst of messages that are about to be read.

    Attributes:
        unread_bytes: bytes that all connections held at the last check, without those that were read since.
        total_bytes: the same, with those that the idle rate leaves out, and those that were read since.
    """

    def __init__(self, port: int, is_encrypted: bool, times: int = 2) -> None:
        self.port, self._times = port, times
        self._overhead = _ENCRYPTED if is_encrypted else 0
        self._peers: dict[int, _Peer] = {}
        self._taken: dict[int, int] = {}  # by descriptor
        self._taken_before: dict[int, int] = {}  # when the descriptor was last examined
        self._unseen: Iterator[int] | None = None
        self._seen: dict[int, _Peer] = {}
        self._held: list[_Held] = []
        self._is_able = hasattr(socket, "TCP_INFO")
        self.unread_bytes = self.total_bytes = 0
        self._dead_peers: list[str] = []

    @property
    def num_connections(self) -> int:
        """Number of connections at the last check."""
        return len(self._held)

    @property
    def is_checking(self) -> bool:
        """Whether a check is unfinished."""
        return self._unseen is not None

    def record(self, frames: Sequence[zmq.Frame]) -> None:
        """Counts the bytes of a message that was read."""
        if not frames:
            return
        try:
            source = int(frames[-1].get(_SRCFD))
        except zmq.ZMQError:
            self._is_able = False  # this build of ZeroMQ does not report the descriptor of a message
            return
        size = 0
        for frame in frames:
            size += self._on_wire(len(frame))
        self._take(source, size)

    def record_frame(self, source: int, size: int) -> None:
        """Counts a frame of ``size`` bytes that was read from a connection with the descriptor ``source``."""
        self._take(source, self._on_wire(size))

    def _on_wire(self, size: int) -> int:
        size += self._overhead
        return size + (_SHORT if size < 256 else _LONG)

    def _take(self, source: int, size: int) -> None:
        self.unread_bytes = max(0, self.unread_bytes - size)
        self._taken[source] = self._taken.get(source, 0) + size

    def close_source(self, frame: zmq.Frame) -> str:
        """Closes the connection that a frame came from, if it is still open. Returns the host of the sender."""
        host = plain_host(str(frame.get("Peer-Address")))
        with contextlib.suppress(zmq.ZMQError, OSError):
            source = int(frame.get(zmq.SRCFD))
            for number, sock, address in _accepted(self.port, [source]):
                # A new connection may have the descriptor of one that is gone.
                if number == source and plain_host(address[0]) == host:
                    sock.shutdown(socket.SHUT_RDWR)
        return host

    def close_abusive(self, limit: int, now: float, total_limit: int | None = None) -> list[tuple[str, int]]:
        """Closes connections that hold more than ``limit`` bytes. Call it about once a second.

        One call examines a bounded number of descriptors. While :attr:`is_checking`, call it after ``SLICE_INTERVAL``.

        Args:
            total_limit: limit of all connections together; by default a multiple of ``limit``.

        Returns:
            Host and bytes of each closed connection.
        """
        if not self._is_able:
            return []
        if self._unseen is None:
            self._unseen, self._seen, self._held = _descriptors(), {}, []
        numbers = list(itertools.islice(self._unseen, _SLICE))
        for number, sock, address in _accepted(self.port, numbers):
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED + 8)
            if len(info) < _BYTES_RECEIVED + 8:
                self._is_able = False
                return []
            peer = self._peers.get(number)
            if peer is None or peer.address != address:
                # Bytes read since the last check may belong to the previous connection with this descriptor. They
                # count for the new one, whose bytes are then underestimated, never overestimated.
                peer = _Peer(address, now, self._taken_before.get(number, 0))
            if peer.detector.is_dead(info, now):
                self._dead_peers.append(plain_host(address[0]))
                _reset(sock)
                continue
            self._seen[number] = peer
            taken = self._taken_before[number] = self._taken.get(number, 0)
            received: int = struct.unpack_from("<Q", info, _BYTES_RECEIVED)[0]
            total = received - (taken - peer.taken)
            size = total - int((now - peer.since) * _IDLE_RATE)
            self._held.append(_Held(size, number, plain_host(address[0]), total))
        if len(numbers) == _SLICE:
            return []
        self._unseen, self._peers = None, self._seen
        self.unread_bytes = sum(each.size for each in self._held if each.size > 0)
        self.total_bytes = sum(each.total for each in self._held if each.total > 0)
        return self._close(self._held, limit, _OF_ALL * limit if total_limit is None else total_limit)

    def log_dead_peers(self, log: logging.Logger) -> None:
        """Logs the connections that the last check closed because their peer is unreachable."""
        for host in self._dead_peers:
            log.warning("closed the connection from %s: it acknowledged nothing for %g s", host, NO_ACK_SECONDS)
        self._dead_peers.clear()

    def close_framed(self, least: int) -> list[tuple[str, int]]:
        """Closes the connections that hold more than ``least`` unread bytes.

        A connection whose next bytes are text is spared: it sends a large frame.

        Returns:
            Host and unread bytes of each closed connection.
        """
        holders = {each.number: each for each in self._held if each.total > least}
        closed = []
        for number, sock, address in _accepted(self.port, holders):
            if self._peers[number].address == address and not _sends_text(sock):
                closed.append((holders[number].host, holders[number].total))
                _reset(sock)
        return closed

    def _close(self, held: list[_Held], limit: int, total_limit: int) -> list[tuple[str, int]]:
        closed = []
        total = self.unread_bytes
        for size, number, host, _ in sorted(held, reverse=True):
            peer = self._peers[number]
            if size <= limit and total <= total_limit:
                peer.times = 0
                continue
            total -= size
            peer.times += 1
            if peer.times >= self._times:
                closed.append((host, size))
                peer.times = 0
                close_accepted(self.port, [number], peer.address)
        return closed


def close_accepted(port: int, numbers: Iterable[int] | None = None, address: Any = None) -> int:
    """Shuts down TCP connections that this process has accepted at a port.

    Args:
        numbers: descriptors of the connections; None is all.
        address: address of the peer; None is any.

    Returns:
        The number of connections.
    """
    count = 0
    for _, sock, peer in _accepted(port, _descriptors() if numbers is None else numbers):
        if address is None or peer == address:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
                count += 1
    return count


def _sends_text(sock: socket.socket) -> bool:
    """Returns whether enough bytes wait in a connection to see that few of them can begin a frame."""
    try:
        sample = sock.recv(_SAMPLE, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return False
    # Encrypted bytes are of any value: one in 64 is below 4.
    return len(sample) >= _MIN_SAMPLE and 16 * len(sample.translate(None, _NOT_FLAGS)) < len(sample)


def _reset(sock: socket.socket) -> None:
    """Ends a connection without waiting for acknowledgements; the kernel drops its unsent data."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RDWR)


def acked_bytes(descriptor: int) -> int:
    """Returns the bytes of a TCP connection that its peer has acknowledged; 0 where the system does not tell."""
    if not hasattr(socket, "TCP_INFO"):
        return 0
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
    except OSError:
        return 0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED)
        return int(struct.unpack_from("<Q", info, _BYTES_ACKED)[0]) if len(info) >= _BYTES_RECEIVED else 0
    except OSError:
        return 0
    finally:
        sock.detach()


def _descriptors() -> Iterator[int]:
    """Yields the open descriptors of this process."""
    try:
        entries = os.scandir("/dev/fd")
    except OSError:  # no descriptor is free, so all numbers up to the limit are in use
        yield from range(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        return
    with entries:
        for entry in entries:
            yield int(entry.name)


def _accepted(port: int, numbers: Iterable[int]) -> Iterator[tuple[int, socket.socket, Any]]:
    """Yields descriptor, socket and peer address of each connection that was accepted at a port.

    The sockets share the descriptors of ZeroMQ, because a copy would need a free one.
    """
    for number in numbers:
        try:
            # The family is not examined; that of the longer addresses has room for both kinds.
            sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 0, number)
        except OSError:
            continue  # not a socket
        try:
            address = sock.getsockname()
            if not isinstance(address, tuple) or address[1] != port:
                continue
            peer = sock.getpeername()  # raises for the listening socket
            yield number, sock, peer
        except OSError:
            continue  # closed meanwhile, or no connection
        finally:
            sock.detach()
