"""Counts the subscriptions of each identity and holds its queue of results. Pure: no sockets, no clock."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import zmq

#: Bytes of large messages that ZeroMQ holds for one subscriber; later messages stay in the queue.
PIPE_BYTES = 64 * 2**20
#: Request ids of dropped results that are stored for one subscriber.
MAX_DROPPED_REQUESTS = 1000
#: Subscribed identities, and their bytes in total. ZeroMQ takes about 100 bytes of memory for each byte of them.
MAX_IDENTITIES, MAX_BYTES_OF_IDENTITIES = 50_000, 2 * 2**20


@dataclass(frozen=True, slots=True)
class QueuedResult:
    """Frames of a result without the topic. ``since`` is in monotonic seconds."""

    frames: list[Any]
    size: int
    since: float


@dataclass(slots=True)
class Subscriber:
    """An identity with its subscriptions and results.

    Attributes:
        subscriptions: number of connections that subscribe to it.
        unresolved: subscriptions that could not be applied. Until their connections are closed, nothing is sent.
        first_replies: number of connections that have received the reply to their first request.
        disconnecting: subscriptions of closed connections whose unsubscriptions have not been read.
        unsubscribed_at: monotonic seconds of the last unsubscription.
        size: bytes of ``queue``.
        dropped_requests: ids of requests whose results were dropped, until an error was sent for them.
        in_pipe: large frames that ZeroMQ holds, and their bytes.
    """

    subscriptions: int = 0
    unresolved: int = 0
    first_replies: int = 0
    disconnecting: int = 0
    unsubscribed_at: float = 0.0
    size: int = 0
    queue: deque[QueuedResult] = field(default_factory=deque)
    dropped_requests: deque[bytes] = field(default_factory=lambda: deque(maxlen=MAX_DROPPED_REQUESTS))
    in_pipe: list[tuple[zmq.MessageTracker, int]] = field(default_factory=list)

    @property
    def is_subscribed(self) -> bool:
        return self.subscriptions + self.unresolved > 0

    @property
    def is_open(self) -> bool:
        """Whether results can be sent."""
        return self.subscriptions > 0 and not self.unresolved

    @property
    def has_pending(self) -> bool:
        return bool(self.queue or self.dropped_requests)

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

    def subscribe(self, identity: bytes, is_resolved: bool) -> Subscriber | None:
        """Counts a subscription. Returns None if it would exceed the limit of identities or of their bytes."""
        subscriber = self._by_identity.get(identity)
        if subscriber is None or not subscriber.is_subscribed:
            size = self.num_identity_bytes + len(identity)
            if self.num_identities >= MAX_IDENTITIES or size > MAX_BYTES_OF_IDENTITIES:
                return None
            self.num_identities += 1
            self.num_identity_bytes = size
        self.never_subscribed.pop(identity, None)
        subscriber = self._by_identity.setdefault(identity, Subscriber())
        if is_resolved:
            subscriber.subscriptions += 1
        else:
            subscriber.unresolved += 1
        return subscriber

    def unsubscribe(self, identity: bytes, now: float) -> Subscriber | None:
        """Counts an unsubscription. Returns None if the identity had no subscription."""
        subscriber = self._by_identity.get(identity)
        if subscriber is None:
            return None
        if subscriber.disconnecting:
            subscriber.disconnecting -= 1
            return None
        if not subscriber.is_subscribed:
            return None
        if subscriber.unresolved:
            subscriber.unresolved -= 1
        else:
            subscriber.subscriptions -= 1
            subscriber.first_replies = min(subscriber.first_replies, subscriber.subscriptions)
        if not subscriber.is_subscribed:
            self.num_identities -= 1
            self.num_identity_bytes -= len(identity)
            subscriber.unsubscribed_at = now
            if not subscriber.queue and not subscriber.disconnecting:
                del self._by_identity[identity]
        return subscriber

    def disconnect_all(self, now: float) -> None:
        """Counts all subscriptions as ended; their unsubscriptions are still to be read."""
        self.num_identities = self.num_identity_bytes = 0
        for subscriber in self._by_identity.values():
            if subscriber.is_subscribed:
                subscriber.disconnecting = subscriber.subscriptions + subscriber.unresolved
                subscriber.unsubscribed_at = now
                subscriber.subscriptions = subscriber.unresolved = subscriber.first_replies = 0
