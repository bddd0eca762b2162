"""Distributes the connections of the result port over many XPUB sockets, called shards.

When a connection ends, libzmq visits every subscription of its XPUB socket, and meanwhile this process does nothing
else. With many sockets behind one port, it visits the subscriptions of a few connections.
"""

from __future__ import annotations

import logging
import select
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import zmq

from ..ipc.connection_monitor import close_accepted
from ..ipc.descriptors import descriptor_limit
from ..ipc.shared_port import IS_SUPPORTED, bind_shared
from ..ipc.sockets import is_readable, send_at_once
from ..security.curve import CurveAuth
from .exact_xpub import UNKNOWN, ExactXpub, Peer, Subscription

#: Largest number of sockets where they can share a port, and the number of open files for each, which bounds clients.
NUM_SHARDS, FILES_PER_SHARD = 64, 64
#: Messages that are read from one socket before the next one.
BURST = 64


class ShardedXpub:
    """The sockets of the result port.

    Args:
        on_read: called with the descriptor and the bytes of each message that was read, if libzmq names its connection.

    Attributes:
        num_shards: number of sockets.
        endpoint: address of the port.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        host: str,
        port: int,
        auth: CurveAuth,
        log: logging.Logger,
        on_read: Callable[[int, int], None],
    ) -> None:
        self._log = log
        self.num_shards = max(1, min(NUM_SHARDS, descriptor_limit() // FILES_PER_SHARD)) if IS_SUPPORTED else 1
        self._shards = [ExactXpub(context, number, self._close, on_read) for number in range(self.num_shards)]
        sockets = [shard.socket for shard in self._shards]
        auth.apply(context, *sockets)
        self.endpoint = bind_shared(sockets, host, port)
        self._port = int(self.endpoint.rpartition(":")[2])
        #: Shards whose messages are not read to the end, in order of reading.
        self._unread: dict[int, None] = {}
        #: Shards that were sent to. Sending may consume the signal of messages that have arrived.
        self._sent: set[int] = set()
        self._by_descriptor = {int(sock.getsockopt(zmq.FD)): number for number, sock in enumerate(sockets)}
        self._epoll = select.epoll() if self.num_shards > 1 else None
        if self._epoll is not None:
            for descriptor in self._by_descriptor:
                self._epoll.register(descriptor, select.EPOLLIN)

    def fileno(self) -> int:
        """Returns a descriptor that is readable when messages may have arrived."""
        return next(iter(self._by_descriptor)) if self._epoll is None else self._epoll.fileno()

    @property
    def has_unread(self) -> bool:
        """Whether messages are available although :meth:`fileno` may not be readable."""
        while self._sent:
            number = self._sent.pop()
            if is_readable(self._shards[number].socket):
                self._unread[number] = None
        return bool(self._unread)

    def close(self, linger_ms: int) -> None:
        """Closes the sockets; published messages are sent for at most ``linger_ms``."""
        if self._epoll is not None:
            self._epoll.close()
        for shard in self._shards:
            shard.socket.close(linger=linger_ms)

    def send(self, number: int, frames: Sequence[Any], copy: bool) -> bool:
        """Sends a message to the subscribers of one shard. Returns whether all of them had room."""
        self._sent.add(number)
        try:
            send_at_once(self._shards[number].socket, frames, copy)
        except zmq.Again:
            return False
        return True

    def subscriptions(self, limit: int) -> Iterator[Subscription]:
        """Reads at most ``limit`` messages, from all shards in turn. :attr:`has_unread` tells whether there are more.

        Call :meth:`accept` or :meth:`reject` before the next message is read.
        """
        if self._epoll is None:
            self._unread[0] = None
        else:
            for descriptor, _ in self._epoll.poll(0):
                self._unread[self._by_descriptor[descriptor]] = None
        while self._unread and limit > 0:
            number = next(iter(self._unread))
            del self._unread[number]
            shard = self._shards[number]
            for subscription in shard.subscriptions(min(limit, BURST)):
                limit -= 1
                if subscription is not None:
                    yield subscription
            if shard.has_unread:
                self._unread[number] = None

    def accept(self, subscription: Subscription) -> None:
        """Applies the subscription that was read last."""
        self._shards[subscription.peer.shard].accept(subscription.identity)

    def reject(self, peer: Peer, reason: str) -> None:
        """Closes a connection, and drops its subscriptions that are not read yet."""
        self._shards[peer.shard].reject(peer, reason)

    def close_peer(self, peer: Peer) -> None:
        """Closes the connection of a peer, if it is still open."""
        if peer.is_known and not peer.is_closed():
            close_accepted(self._port, [peer.descriptor])

    def _close(self, descriptor: int, reason: str) -> None:
        if close_accepted(self._port, None if descriptor == UNKNOWN else [descriptor]):
            self._log.warning("closed a connection to the result port: %s", reason)
