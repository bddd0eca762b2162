"""Counts the subscriptions of each identity and holds its queue of results. Pure: no sockets, no clock."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import zmq

from ..ipc.connection_monitor import acked_bytes
from .exact_xpub import Peer

#: Bytes of large messages that ZeroMQ holds for one subscriber, or one larger message. Others stay in the queue.
PIPE_BYTES = 4 * 2**20
#: Large messages of one subscriber that are remembered until they are acknowledged.
MAX_UNCONFIRMED = 64
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


class InPipe(NamedTuple):
    """A large message that ZeroMQ holds; ``size`` is in bytes."""

    tracker: zmq.MessageTracker
    size: int


class Unconfirmed(NamedTuple):
    """A large message that may not have arrived. Its connections have acknowledged it from ``acked`` bytes on."""

    request_id: bytes
    acked: int


@dataclass(slots=True)
class Subscriber:
    """An identity with its subscriptions and results.

    Attributes:
        peers: connections that subscribe to it.
        closing_peers: those that are being closed. Nothing is sent until they are closed.
        has_closed_peers: whether an unsubscription had no matching connection, which may be closed by now.
        first_replies: number of connections that have received the reply to their first request.
        unsubscribed_at: monotonic seconds of the last unsubscription.
        size: bytes of ``queue``.
        dropped_requests: ids of requests whose results were dropped, until an error was sent for them.
        in_pipe: large messages that ZeroMQ holds.
        unconfirmed: large messages whose bytes its connections have not acknowledged.
        progress_at: monotonic seconds at which it was last seen to read, or when it got its first unread result.
        acked: bytes that its connections had acknowledged then.
    """

    peers: list[Peer] = field(default_factory=list)
    closing_peers: list[Peer] = field(default_factory=list)
    has_closed_peers: bool = False
    first_replies: int = 0
    unsubscribed_at: float = 0.0
    size: int = 0
    queue: deque[QueuedResult] = field(default_factory=deque)
    dropped_requests: deque[bytes] = field(default_factory=lambda: deque(maxlen=MAX_DROPPED_REQUESTS))
    in_pipe: list[InPipe] = field(default_factory=list)
    unconfirmed: deque[Unconfirmed] = field(default_factory=lambda: deque(maxlen=MAX_UNCONFIRMED))
    progress_at: float = 0.0
    acked: int = 0

    @property
    def subscriptions(self) -> int:
        return len(self.peers)

    @property
    def is_subscribed(self) -> bool:
        return bool(self.peers or self.closing_peers)

    @property
    def is_open(self) -> bool:
        """Whether results can be sent."""
        return bool(self.peers) and not self.closing_peers

    @property
    def has_pending(self) -> bool:
        return bool(self.queue or self.dropped_requests)

    @property
    def is_quiet(self) -> bool:
        """Whether it is subscribed and has nothing that waits or ends."""
        return bool(
            self.peers
            and not (self.queue or self.in_pipe or self.unconfirmed or self.dropped_requests)
            and not (self.has_closed_peers or self.closing_peers)
        )

    @property
    def shards(self) -> set[int]:
        """Shards with a connection that subscribes to it."""
        return {peer.shard for peer in self.peers}

    def end_subscription(self, peer: Peer | None) -> bool:
        """Ends the subscription of a connection. Returns whether there was one.

        Without a descriptor, it is a closed connection of the same shard; None is a closed connection of any shard.
        """
        for peers in (self.closing_peers, self.peers):
            found = peer if peer in peers else None
            if found is None and (peer is None or not peer.is_known):
                ended = (one for one in peers if one.is_closed() and (peer is None or one.shard == peer.shard))
                found = next(ended, None)
            if found is not None:
                peers.remove(found)
                self.first_replies = min(self.first_replies, len(self.peers))
                return True
        return False

    @property
    def pipe_bytes(self) -> int:
        """Bytes of large messages that ZeroMQ holds."""
        if self.in_pipe:
            self.in_pipe = [each for each in self.in_pipe if not each.tracker.done]
        return sum(each.size for each in self.in_pipe)

    def has_room(self, size: int, limit: int) -> bool:
        """Returns whether ZeroMQ may take another large message. It always takes one."""
        held = self.pipe_bytes
        return not held or held + size <= limit

    def close_peers(self) -> list[Peer]:
        """Returns the connections to close. Nothing is sent until their subscriptions have ended."""
        closing = [peer for peer in self.peers if peer.is_known]
        self.peers = [peer for peer in self.peers if not peer.is_known]
        self.closing_peers += closing
        return closing

    def add_large(self, message: InPipe, request_id: bytes) -> None:
        """Records a large message that was handed to ZeroMQ."""
        self.in_pipe.append(message)
        acked = self.unconfirmed[-1].acked if self.unconfirmed else self._acked_bytes()
        if acked:  # elsewhere than on Linux, this is unknown
            self.unconfirmed.append(Unconfirmed(request_id, acked + message.size))

    def check_progress(self, now: float) -> None:
        """Records whether the connections have acknowledged bytes since the last call."""
        acked = self._acked_bytes()
        if acked != self.acked:
            self.acked, self.progress_at = acked, now
        while self.unconfirmed and self.unconfirmed[0].acked <= acked:
            self.unconfirmed.popleft()

    def _acked_bytes(self) -> int:
        return sum(acked_bytes(peer.descriptor) for peer in self.peers if not peer.is_closed())

    def stalled_seconds(self, now: float) -> float:
        """Returns for how long nothing was read, although results wait."""
        since = max(self.progress_at, self.unsubscribed_at)
        return now - (since if self.peers or not self.queue else max(since, self.queue[0].since))


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

    def subscribe(self, identity: bytes, peer: Peer) -> Subscriber | None:
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
        if not peer.is_known or peer not in subscriber.peers:  # libzmq stores each subscription of a connection once
            subscriber.peers.append(peer)
        return subscriber

    def unsubscribe(self, identity: bytes, peer: Peer, now: float) -> Subscriber | None:
        """Ends the subscription of a connection, which is not known if it has closed.

        Returns None if the identity had no such subscription. Another connection cannot end it.
        """
        subscriber = self._by_identity.get(identity)
        if subscriber is None:
            return None
        if not subscriber.end_subscription(peer):
            subscriber.has_closed_peers = True
            return None
        self._count_end(identity, subscriber, now)
        if not subscriber.is_subscribed and not subscriber.has_pending:
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
            subscriber.unconfirmed.clear()
