"""Counts the subscriptions of each identity and holds its queue of results. Pure: no sockets, no clock."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import zmq

from .exact_xpub import Peer

#: Bytes of large messages that ZeroMQ holds for one subscriber; later messages stay in the queue.
PIPE_BYTES = 64 * 2**20
#: Request ids of dropped results that are stored for one subscriber.
MAX_DROPPED_REQUESTS = 1000
#: Subscribed identities, and their bytes in total. ZeroMQ takes about 100 bytes of memory for each byte of them.
MAX_IDENTITIES, MAX_BYTES_OF_IDENTITIES = 50_000, 2 * 2**20


@dataclass(slots=True)
class QueuedResult:
    """Frames of a result without the topic. ``since`` is in monotonic seconds; ``sent`` are shards that have it."""

    frames: Sequence[Any]
    size: int
    since: float
    sent: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Subscriber:
    """An identity with its subscriptions and results.

    Attributes:
        peers: connections that subscribe to it.
        unresolved_peers: those whose subscription could not be applied. Until they are closed, nothing is sent.
        has_closed_peers: whether an unsubscription had no matching connection, which may be closed by now.
        first_replies: number of connections that have received the reply to their first request.
        disconnecting: subscriptions of closed connections whose unsubscriptions have not been read.
        unsubscribed_at: monotonic seconds of the last unsubscription.
        size: bytes of ``queue``.
        dropped_requests: ids of requests whose results were dropped, until an error was sent for them.
        in_pipe: large frames that ZeroMQ holds, and their bytes.
    """

    peers: list[Peer] = field(default_factory=list)
    unresolved_peers: list[Peer] = field(default_factory=list)
    has_closed_peers: bool = False
    first_replies: int = 0
    disconnecting: int = 0
    unsubscribed_at: float = 0.0
    size: int = 0
    queue: deque[QueuedResult] = field(default_factory=deque)
    dropped_requests: deque[bytes] = field(default_factory=lambda: deque(maxlen=MAX_DROPPED_REQUESTS))
    in_pipe: list[tuple[zmq.MessageTracker, int]] = field(default_factory=list)

    @property
    def subscriptions(self) -> int:
        return len(self.peers)

    @property
    def is_subscribed(self) -> bool:
        return bool(self.peers or self.unresolved_peers)

    @property
    def is_open(self) -> bool:
        """Whether results can be sent."""
        return bool(self.peers) and not self.unresolved_peers

    @property
    def has_pending(self) -> bool:
        return bool(self.queue or self.dropped_requests)

    @property
    def shards(self) -> set[int]:
        """Shards with a connection that subscribes to it."""
        return {peer.shard for peer in self.peers}

    def end_subscription(self, peer: Peer | None) -> bool:
        """Ends the subscription of a connection. Returns whether there was one.

        Without a descriptor, it is a closed connection of the same shard; None is a closed connection of any shard.
        """
        for peers in (self.unresolved_peers, self.peers):
            found = peer if peer in peers else None
            if found is None and (peer is None or not peer.is_known):
                ended = (one for one in peers if one.is_closed() and (peer is None or one.shard == peer.shard))
                found = next(ended, None)
            if found is not None:
                peers.remove(found)
                self.first_replies = min(self.first_replies, len(self.peers))
                return True
        return False

    def has_room(self) -> bool:
        """Returns whether ZeroMQ may take another large message."""
        self.in_pipe = [(tracker, size) for tracker, size in self.in_pipe if not tracker.done]
        return sum(size for _, size in self.in_pipe) < PIPE_BYTES


class SubscriberTable:
    """All identities with a subscription or a queued result.

    Attributes:
        never_subscribed: identities with results and without any subscription so far, oldest first. An OrderedDict
            removes its oldest key fast; a dict does not.
    """

    def __init__(self) -> None:
        self._by_identity: dict[bytes, Subscriber] = {}
        self.never_subscribed: OrderedDict[bytes, None] = OrderedDict()
        self.num_identities = self.num_identity_bytes = 0

    def __len__(self) -> int:
        return len(self._by_identity)

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._by_identity

    def __getitem__(self, identity: bytes) -> Subscriber:
        return self._by_identity[identity]

    def __iter__(self) -> Iterator[bytes]:
        return iter(list(self._by_identity))

    def get(self, identity: bytes) -> Subscriber | None:
        return self._by_identity.get(identity)

    def items(self) -> list[tuple[bytes, Subscriber]]:
        return list(self._by_identity.items())

    def add_unsubscribed(self, identity: bytes, now: float) -> Subscriber:
        """Adds an identity that receives a result before its first subscription."""
        subscriber = self._by_identity[identity] = Subscriber(unsubscribed_at=now)
        self.never_subscribed[identity] = None
        return subscriber

    def remove(self, identity: bytes) -> Subscriber:
        self.never_subscribed.pop(identity, None)
        return self._by_identity.pop(identity)

    def subscribe(self, identity: bytes, is_resolved: bool, peer: Peer) -> Subscriber | None:
        """Adds the subscription of a connection. Returns None if it would exceed a limit.

        The limits are those of identities and of their bytes.
        """
        subscriber = self._by_identity.get(identity)
        if subscriber is None or not subscriber.is_subscribed:
            size = self.num_identity_bytes + len(identity)
            if self.num_identities >= MAX_IDENTITIES or size > MAX_BYTES_OF_IDENTITIES:
                return None
            self.num_identities += 1
            self.num_identity_bytes = size
        self.never_subscribed.pop(identity, None)
        subscriber = self._by_identity.setdefault(identity, Subscriber())
        peers = subscriber.peers if is_resolved else subscriber.unresolved_peers
        if not peer.is_known or peer not in peers:  # libzmq stores the same subscription of a connection once
            peers.append(peer)
        return subscriber

    def unsubscribe(self, identity: bytes, peer: Peer, now: float) -> Subscriber | None:
        """Ends the subscription of a connection, which is not known if it has closed.

        Returns None if the identity had no such subscription. Another connection cannot end it.
        """
        subscriber = self._by_identity.get(identity)
        if subscriber is None:
            return None
        if not peer.is_known and subscriber.disconnecting:
            subscriber.disconnecting -= 1
            return None
        if not subscriber.end_subscription(peer):
            subscriber.has_closed_peers = True
            return None
        self._count_end(identity, subscriber, now)
        if not subscriber.is_subscribed and not subscriber.queue and not subscriber.disconnecting:
            del self._by_identity[identity]
        return subscriber

    def end_closed(self, identity: bytes, subscriber: Subscriber, now: float) -> None:
        """Ends the subscriptions of connections that closed without a matching unsubscription."""
        subscriber.has_closed_peers = False
        while subscriber.end_subscription(None):
            self._count_end(identity, subscriber, now)

    def _count_end(self, identity: bytes, subscriber: Subscriber, now: float) -> None:
        if not subscriber.is_subscribed:
            self.num_identities -= 1
            self.num_identity_bytes -= len(identity)
            subscriber.unsubscribed_at = now

    def disconnect_all(self, now: float) -> None:
        """Counts all subscriptions as ended; their unsubscriptions are still to be read."""
        self.num_identities = self.num_identity_bytes = 0
        for subscriber in self._by_identity.values():
            if subscriber.is_subscribed:
                subscriber.disconnecting = len(subscriber.peers) + len(subscriber.unresolved_peers)
                subscriber.unsubscribed_at = now
                subscriber.peers, subscriber.unresolved_peers, subscriber.first_replies = [], [], 0
