"""Keeps the results of clients that read late or never, bounded in bytes and in age.

The oldest results are dropped, and their client receives an error for each of them. A client that reads nothing for
long is disconnected, since ZeroMQ's pipe keeps its messages until then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bert_serving.client.protocol import error_info

from .exact_xpub import Peer
from .subscribers import QueuedResult, Subscriber, SubscriberTable

#: Seconds without a read byte from which the results of a client may be dropped for other requests.
STALL_SECONDS = 5.0
#: Memory of a queued result beside its frames, in bytes.
_OVERHEAD = 400


class SlowReaders:
    """The queued results of all subscribers, and the rules by which they are dropped.

    Args:
        close_peer: closes a connection of a subscriber.
        max_bytes: limit of all queued results together.
        ttl: seconds that a result is kept for a connected subscriber that does not read.
        absent_ttl: seconds that a result is kept for a disconnected subscriber.

    Attributes:
        num_bytes: bytes of all queued results.
        num_dropped: number of dropped results.
        error: information of the reply that replaces a dropped result.
    """

    def __init__(
        self,
        subscribers: SubscriberTable,
        close_peer: Callable[[Peer], None],
        log: logging.Logger,
        max_bytes: int,
        ttl: float,
        absent_ttl: float,
    ) -> None:
        self._subscribers, self._close_peer, self._log = subscribers, close_peer, log
        self.max_bytes, self._ttl, self._absent_ttl = max_bytes, ttl, absent_ttl
        self.num_bytes = self.num_dropped = 0
        self.error = error_info(
            "overloaded",
            f"the result was dropped: it waited more than {ttl:.15g} s for its reader (-result_ttl), or more than "
            f"{max_bytes} bytes of results waited (-result_memory); read results sooner, or ask for fewer at a time",
        )

    def queue(self, subscriber: Subscriber, frames: Sequence[Any], now: float, sent: set[int]) -> None:
        """Queues a result.

        Args:
            frames: frames without the topic.
            sent: shards that have the result already.
        """
        kept = [_detached(frame) for frame in frames]
        size = sum(frame_size(frame) for frame in kept) + _OVERHEAD
        subscriber.queue.append(QueuedResult(kept, size, now, sent))
        subscriber.size += size
        self.num_bytes += size

    def pop(self, subscriber: Subscriber) -> None:
        """Removes the oldest result of a subscriber."""
        size = subscriber.queue.popleft().size
        subscriber.size -= size
        self.num_bytes -= size

    def forget(self, subscriber: Subscriber) -> None:
        """Drops all results of a subscriber that is removed."""
        self.num_bytes -= subscriber.size
        self.num_dropped += len(subscriber.queue)

    def expire(self, identity: bytes, subscriber: Subscriber, now: float) -> None:
        """Drops results that are too old, and disconnects a client that reads nothing for as long."""
        oldest = now - (self._ttl if subscriber.is_subscribed else self._absent_ttl)
        num_dropped = 0
        while subscriber.queue and max(subscriber.queue[0].since, subscriber.unsubscribed_at) < oldest:
            self._drop_oldest(subscriber)
            num_dropped += 1
        if num_dropped:
            reason = "does not read" if subscriber.subscriptions else "is disconnected"
            self._log.warning("client %r %s; %d of its results are dropped", identity, reason, num_dropped)
        if subscriber.pipe_bytes and subscriber.peers and subscriber.stalled_seconds(now) >= self._ttl:
            self._log.warning("client %r does not read; its connection is closed (-result_ttl)", identity)
            self._disconnect(subscriber)
        if not subscriber.is_subscribed and subscriber.unsubscribed_at < oldest:
            subscriber.dropped_requests.clear()

    def evict(self, pipe_bytes: int) -> None:
        """Drops a sixteenth of ``max_bytes``, so that it does not run again for the next result.

        The subscribers with most bytes lose their oldest results, up to half of their bytes each.

        Args:
            pipe_bytes: bytes that ZeroMQ holds, which count too.
        """
        before, goal = self.num_dropped, self.max_bytes - self.max_bytes // 16
        by_size = sorted(self._subscribers.items(), key=lambda item: item[1].size, reverse=True)
        goal = max(0, goal - pipe_bytes)
        while self.num_bytes > goal:
            for _, subscriber in by_size:
                half = subscriber.size // 2
                while subscriber.size > half and self.num_bytes > goal:
                    self._drop_oldest(subscriber)
                if self.num_bytes <= goal:
                    break
        self._log.warning(
            "queued results exceed %d bytes (-result_memory); %d are dropped, the oldest of the clients with most "
            "bytes, first of client %r, which does not read",
            self.max_bytes,
            self.num_dropped - before,
            by_size[0][0],
        )

    def free(self, size: int, now: float) -> list[tuple[bytes, Subscriber]]:
        """Drops results of clients that do not read, the most bytes first, and closes their connections.

        Args:
            size: bytes that are needed.

        Returns:
            The clients.
        """
        stalled = [
            (subscriber.size + subscriber.pipe_bytes, identity, subscriber)
            for identity, subscriber in self._subscribers.items()
            if not subscriber.is_quiet and subscriber.stalled_seconds(now) >= STALL_SECONDS
        ]
        freed = []
        for held, identity, subscriber in sorted(stalled, key=lambda each: each[0], reverse=True):
            if size <= 0 or not held:
                break
            size -= held
            self._log.warning(
                "client %r does not read; its results of %d bytes are dropped, because other requests need the memory "
                "(-result_memory)",
                identity,
                held,
            )
            while subscriber.queue:
                self._drop_oldest(subscriber)
            self._disconnect(subscriber)
            freed.append((identity, subscriber))
        return freed

    def _disconnect(self, subscriber: Subscriber) -> None:
        """Closes the connections of a subscriber. After a reconnect it receives errors for results that are lost."""
        subscriber.dropped_requests.extend(each.request_id for each in subscriber.unconfirmed)
        self.num_dropped += len(subscriber.unconfirmed)
        subscriber.unconfirmed.clear()
        for peer in subscriber.close_peers():
            self._close_peer(peer)

    def _drop_oldest(self, subscriber: Subscriber) -> None:
        """Drops the oldest result; a connected subscriber receives an error for its request."""
        frames = subscriber.queue[0].frames
        if subscriber.is_subscribed and len(frames) == 3:
            subscriber.dropped_requests.append(bytes(frames[-1]))
        self.pop(subscriber)
        self.num_dropped += 1


def frame_size(frame: Any) -> int:
    """Returns the bytes of a frame."""
    return frame.nbytes if isinstance(frame, np.ndarray) else len(frame)


def _detached(frame: Any) -> Any:
    """Copies an array that is less than half of its buffer, so that a queued result does not keep the buffer alive."""
    if not isinstance(frame, np.ndarray) or frame.base is None:
        return frame
    base: Any = frame
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return frame.copy() if 2 * frame.nbytes < memoryview(base).nbytes else frame
