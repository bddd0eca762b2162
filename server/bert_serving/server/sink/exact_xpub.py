"""Wraps an XPUB socket so that each identity receives its own results only, and works around a fault of libzmq.

ZeroMQ matches subscriptions by prefix: a subscription to ``user1`` would match results for ``user12``. With
XPUB_MANUAL, this module replaces a subscription to an identity by one to the identity and a keyed hash of it. Such a
topic is no prefix of another topic, and clients cannot compute it.

libzmq 4.3.5 pairs pending subscriptions with the wrong connections after a message that is no subscription: its
``xpub_t`` stores no connection for such a message, but takes one from the list when the message is read. Clients of
this project never send such a message. After one, subscriptions that are read are not applied until the socket is
empty, and the publisher closes all connections. Clients then connect and subscribe again. The socket stays open,
because libzmq aborts when it closes such a socket during the handshake of a peer of protocol version 1.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from typing import NamedTuple

import zmq

from bert_serving.client.protocol import MAX_IDENTITY_BYTES

from ..ipc.sockets import bind_tcp, keep_alive
from ..ipc.tcp_guard import close_accepted
from ..security.curve import CurveAuth

#: Messages that ZeroMQ queues for one subscriber.
PIPE_MESSAGES = 64
#: Bytes of one received message; subscriptions are small.
MAX_SUBSCRIPTION_BYTES = 64 * 1024
#: Inode of a connection that was closed before its message was read.
CLOSED = -1


class Peer(NamedTuple):
    """A connection. Its descriptor may be used again after its end; its inode tells the two connections apart."""

    descriptor: int
    inode: int

    @classmethod
    def of(cls, message: zmq.Frame) -> Peer | None:
        """Returns the connection that sent a message; None if libzmq does not name it."""
        try:
            descriptor = int(message.get(zmq.SRCFD))
        except zmq.ZMQError:
            return None
        return cls(descriptor, _inode(descriptor))

    def is_closed(self) -> bool:
        return self.inode == CLOSED or _inode(self.descriptor) != self.inode


def _inode(descriptor: int) -> int:
    try:
        return os.fstat(descriptor).st_ino
    except OSError:
        return CLOSED


class Subscription(NamedTuple):
    """A subscription or unsubscription.

    Attributes:
        is_resolved: whether libzmq pairs it with the right connection, so that it can be applied.
        peer: its connection; None for an unsubscription that libzmq makes when a connection ends.
    """

    identity: bytes
    is_subscribe: bool
    is_resolved: bool
    peer: Peer | None


class ExactXpub:
    """An XPUB socket with one exact topic per identity.

    Attributes:
        has_unread: whether the last :meth:`subscriptions` stopped at its limit.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], host: str, port: int, auth: CurveAuth) -> None:
        self._secret = secrets.token_bytes(16)
        self._is_misaligned = False
        self.has_unread = False
        self.socket = context.socket(zmq.XPUB)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.XPUB_MANUAL, 1)
        self.socket.setsockopt(zmq.XPUB_NODROP, 1)
        self.socket.setsockopt(zmq.SNDHWM, PIPE_MESSAGES)
        self.socket.setsockopt(zmq.MAXMSGSIZE, MAX_SUBSCRIPTION_BYTES)
        keep_alive(self.socket)  # not ZeroMQ's heartbeats: a slow subscriber does not answer them
        auth.apply(context, self.socket)
        bind_tcp(self.socket, host, port)

    def topic(self, identity: bytes) -> bytes:
        return identity + hashlib.blake2b(identity, key=self._secret, digest_size=8).digest()

    def subscriptions(self, limit: int) -> Iterator[Subscription]:
        """Reads at most ``limit`` messages. Unsubscriptions are applied; :meth:`accept` applies a subscription.

        Call :meth:`accept` before the next message is read: libzmq applies it to the connection of the last message.
        """
        self.has_unread = True
        for _ in range(limit):
            try:
                frame = self.socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                self._is_misaligned = self.has_unread = False
                return
            message = frame.bytes
            kind, identity = message[:1], message[1:]
            if kind not in (b"\x00", b"\x01"):
                self._is_misaligned = True
                continue
            if len(identity) > MAX_IDENTITY_BYTES:
                continue  # no request can carry it
            if kind == b"\x00" and not self._is_misaligned:
                self.socket.setsockopt(zmq.UNSUBSCRIBE, self.topic(identity))
            yield Subscription(identity, kind == b"\x01", not self._is_misaligned, Peer.of(frame))

    def accept(self, identity: bytes) -> None:
        """Applies the subscription that was read last."""
        self.socket.setsockopt(zmq.SUBSCRIBE, self.topic(identity))

    def close_connections(self) -> None:
        """Closes all connections of the socket; the socket stays bound."""
        endpoint = self.socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        close_accepted(int(endpoint.rstrip(b"\0").rpartition(b":")[2]))
