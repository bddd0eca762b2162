"""Wraps an XPUB socket so that each identity receives its own results only, and works around a fault of libzmq.

ZeroMQ matches subscriptions by prefix: a subscription to ``user1`` would match results for ``user12``. With
XPUB_MANUAL, this module replaces a subscription to an identity by one to the identity and a keyed hash of it. Such a
topic is no prefix of another topic, and clients cannot compute it.

libzmq 4.3.5 pairs pending subscriptions with the wrong connections after a message that is no subscription: its
``xpub_t`` stores no connection for such a message, but takes one from the list when the message is read. Clients of
this project never send such a message. After one, subscriptions that are read cannot be applied until the socket is
empty. libzmq names the connection of each message correctly (SRCFD), so these connections are closed and no others.
Their clients connect and subscribe again. The socket stays open, because libzmq aborts when it closes such a socket
during the handshake of a peer of protocol version 1.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import zmq

from bert_serving.client.protocol import MAX_IDENTITY_BYTES

from ..ipc.descriptors import CLOSED, inode
from ..ipc.sockets import keep_alive

#: Messages that ZeroMQ queues for one subscriber.
PIPE_MESSAGES = 64
#: Bytes of one received message; subscriptions are small.
MAX_SUBSCRIPTION_BYTES = 4096
#: Subscriptions of one connection, and their bytes. A client subscribes to one identity.
MAX_SUBSCRIPTIONS, MAX_SUBSCRIBED_BYTES = 500, 64 * 1024
#: Bytes that ZeroMQ's memory of a subscription is counted with, beside those of its topic.
_OVERHEAD = 16
#: Descriptor that is not known.
UNKNOWN = -1
#: Key of the topics. All sockets of a process share it.
_SECRET = secrets.token_bytes(16)


@lru_cache(maxsize=1024)
def topic(identity: bytes) -> bytes:
    """Returns the topic of an identity."""
    return identity + hashlib.blake2b(identity, key=_SECRET, digest_size=8).digest()


class Peer(NamedTuple):
    """A connection. Its descriptor may be used again after its end; its inode tells the two connections apart.

    ``shard`` is the number of its socket. The descriptor is ``UNKNOWN`` if libzmq does not name the connection, as in
    the unsubscriptions that it makes when a connection ends.
    """

    shard: int
    descriptor: int
    inode: int

    @property
    def is_known(self) -> bool:
        return self.descriptor != UNKNOWN

    def is_closed(self) -> bool:
        return self.is_known and (self.inode == CLOSED or inode(self.descriptor) != self.inode)


class Subscription(NamedTuple):
    """A subscription or unsubscription."""

    identity: bytes
    is_subscribe: bool
    peer: Peer


class ExactXpub:
    """An XPUB socket with one exact topic per identity. The caller binds it.

    Args:
        number: number of this socket in ``Peer.shard``.
        close: called with the descriptor of a connection that exceeds a limit, and the reason.
        on_read: called with the descriptor and the bytes of each message that was read, if libzmq names its connection.

    Attributes:
        has_unread: whether the last :meth:`subscriptions` stopped at its limit.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        number: int,
        close: Callable[[int, str], None],
        on_read: Callable[[int, int], None],
    ) -> None:
        self._number, self._close, self._on_read = number, close, on_read
        self._is_misaligned = self._are_peers_named = False
        #: Inode, number of subscriptions and their bytes by descriptor. A new connection replaces the entry.
        self._held: dict[int, tuple[int, int, int]] = {}
        #: Inodes of connections that this server closed, by descriptor. Their unread subscriptions are dropped.
        self._rejected: dict[int, int] = {}
        self.has_unread = False
        self.socket = context.socket(zmq.XPUB)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.XPUB_MANUAL, 1)
        self.socket.setsockopt(zmq.XPUB_NODROP, 1)
        self.socket.setsockopt(zmq.SNDHWM, PIPE_MESSAGES)
        self.socket.setsockopt(zmq.MAXMSGSIZE, MAX_SUBSCRIPTION_BYTES)
        keep_alive(self.socket)  # not ZeroMQ's heartbeats: a slow subscriber does not answer them

    def subscriptions(self, limit: int) -> Iterator[Subscription | None]:
        """Reads at most ``limit`` messages; a message that is dropped yields None. Unsubscriptions are applied.

        Call :meth:`accept` before the next message is read: libzmq applies it to the connection of the last message.
        """
        self.has_unread = True
        ended: list[tuple[int, int]] = []
        for _ in range(limit):
            try:
                frame = self.socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                self._is_misaligned = False
                self._forget(ended)
                ended = [(number, known) for number, known in self._rejected.items() if _has_ended(number, known)]
                if not ended:
                    self.has_unread = False
                    return
            else:
                yield self._read(frame)

    def _forget(self, ended: list[tuple[int, int]]) -> None:
        """Forgets rejected connections whose messages have all been read.

        libzmq hands over the last messages of a connection before it closes the descriptor. So they are read when the
        socket is empty after the descriptor was seen closed.
        """
        for number, known in ended:
            if self._rejected.get(number) == known:
                del self._rejected[number]

    def _read(self, frame: zmq.Frame) -> Subscription | None:
        message = frame.bytes
        kind, identity = message[:1], message[1:]
        peer = self._peer(frame)
        if peer.is_known:
            self._on_read(peer.descriptor, len(message))
        if peer.descriptor in self._rejected:
            self._reject_again(peer)
            return None
        if kind not in (b"\x00", b"\x01"):
            self._is_misaligned = True
            self.reject(peer, "it sent a message that is no subscription")
            return None
        is_subscribe = kind == b"\x01"
        if self._is_misaligned and (peer.is_known or is_subscribe):
            self.reject(peer, "it subscribed behind an invalid message of another client, and can subscribe again")
            return None
        if is_subscribe and peer.is_known and peer.inode == CLOSED:
            return None  # results sent to it would be lost
        if peer.is_known and not self._count(peer, len(identity), is_subscribe):
            return None
        if len(identity) > MAX_IDENTITY_BYTES:
            return None  # no request can carry it
        # Without a connection, libzmq has applied it.
        if not is_subscribe and (peer.is_known or not self._are_peers_named):
            self.socket.setsockopt(zmq.UNSUBSCRIBE, topic(identity))
        return Subscription(identity, is_subscribe, peer)

    def _peer(self, frame: zmq.Frame) -> Peer:
        """Returns the connection that sent a message."""
        try:
            descriptor = int(frame.get(zmq.SRCFD))
        except zmq.ZMQError:
            return Peer(self._number, UNKNOWN, CLOSED)
        self._are_peers_named = True
        return Peer(self._number, descriptor, inode(descriptor))

    def _count(self, peer: Peer, size: int, is_subscribe: bool) -> bool:
        """Counts a subscription of a connection. Returns False if its connection exceeds a limit and is closed."""
        known, number, total = self._held.get(peer.descriptor, (peer.inode, 0, 0))
        if known != peer.inode:
            number = total = 0
        sign = 1 if is_subscribe else -1
        number, total = max(0, number + sign), max(0, total + sign * (size + _OVERHEAD))
        self._held[peer.descriptor] = peer.inode, number, total
        if number <= MAX_SUBSCRIPTIONS and total <= MAX_SUBSCRIBED_BYTES:
            return True
        self.reject(peer, f"subscriptions to more than {MAX_SUBSCRIPTIONS} identities or {MAX_SUBSCRIBED_BYTES} bytes")
        return False

    def reject(self, peer: Peer, reason: str) -> None:
        """Closes a connection, and drops the subscriptions of it that are not read yet.

        If the connection is not known, all connections are closed.
        """
        if peer.is_known:
            self._rejected[peer.descriptor] = peer.inode
        if peer.inode != CLOSED or not peer.is_known:
            self._close(peer.descriptor, reason)

    def _reject_again(self, peer: Peer) -> None:
        """Handles a message whose descriptor is that of a rejected connection.

        If a new connection has the descriptor, the message may be that of the old or of the new one. Closing the new
        one makes its client connect and subscribe again.
        """
        if peer.inode not in (CLOSED, self._rejected[peer.descriptor]):
            self.reject(peer, "it has the descriptor of a connection that was closed")

    def accept(self, identity: bytes) -> None:
        """Applies the subscription that was read last."""
        self.socket.setsockopt(zmq.SUBSCRIBE, topic(identity))


def _has_ended(descriptor: int, known: int) -> bool:
    """Returns whether the connection with the inode ``known`` has closed its descriptor.

    Where sockets have no inodes (0), this is unknown, and it counts as closed.
    """
    return known in (CLOSED, 0) or inode(descriptor) != known
