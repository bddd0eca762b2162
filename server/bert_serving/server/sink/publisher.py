"""Publishes finished results to their subscribers.

A result is sent when its identity is subscribed. Results for a slow or disconnected subscriber are queued, bounded in
bytes and in age, and do not delay other subscribers. The bounds count bytes both in the queue and in ZeroMQ's pipe:
ZeroMQ counts messages only, and one message may have gigabytes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from ..security.curve import CurveAuth
from .exact_xpub import topic
from .sharded_xpub import ShardedXpub
from .slow_readers import SlowReaders, frame_size
from .subscribers import PIPE_BYTES, InPipe, Subscriber, SubscriberTable

#: Bytes from which a frame is handed to ZeroMQ without a copy, and tracked until ZeroMQ has sent it.
LARGE_FRAME = 65536
#: Identities with results and without any subscription so far; beyond them the oldest is dropped.
MAX_NEVER_SUBSCRIBED = 10_000
#: Seconds that a first reply waits for one more subscription, and how many first replies may wait.
FIRST_REPLY_SECONDS = 2.0
MAX_FIRST_REPLIES = 1000
#: Messages of subscribers read at a time.
BURST = 1024


class ResultPublisher:
    """The result socket and its queues. Times are monotonic seconds, given by the caller.

    Args:
        context: owned by the publisher; :meth:`close` terminates it.
        max_bytes: limit of all queued results together.
        ttl: seconds that a result is kept for a connected subscriber that does not read.
        absent_ttl: seconds that a result is kept for a disconnected subscriber.
        on_read: called with the descriptor and the bytes of each message of a subscriber that was read.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        host: str,
        port: int,
        log: logging.Logger,
        max_bytes: int,
        ttl: float,
        absent_ttl: float,
        auth: CurveAuth,
        on_read: Callable[[int, int], None] = lambda descriptor, size: None,
    ) -> None:
        self.log = log
        self._context, self._auth = context, auth
        self._xpub = ShardedXpub(context, host, port, auth, log, on_read)
        self.subscribers = SubscriberTable()
        self.slow_readers = SlowReaders(
            self.subscribers, self._xpub.close_peer, log, max_bytes, ttl, min(ttl, absent_ttl)
        )
        self.num_sent = 0
        self._blocked: dict[bytes, None] = {}  # open subscribers with pending messages
        self._first_replies: deque[tuple[bytes, Sequence[Any], float]] = deque()
        self._in_pipes: list[InPipe] = []

    @property
    def endpoint(self) -> str:
        """Address of the result port."""
        return self._xpub.endpoint

    def fileno(self) -> int:
        """Returns a descriptor that is readable when subscriptions may have arrived."""
        return self._xpub.fileno()

    @property
    def has_unread(self) -> bool:
        """Whether :meth:`on_subscription` should be called at once."""
        return self._xpub.has_unread

    @property
    def max_bytes(self) -> int:
        """Limit of all queued results together."""
        return self.slow_readers.max_bytes

    @property
    def num_bytes(self) -> int:
        """Bytes of all queued results."""
        return self.slow_readers.num_bytes

    @property
    def num_dropped(self) -> int:
        """Number of results that were dropped since the start."""
        return self.slow_readers.num_dropped

    @property
    def is_blocked(self) -> bool:
        """Whether :meth:`flush` should be called again soon."""
        return bool(self._blocked)

    @property
    def has_first_replies(self) -> bool:
        """Whether :meth:`deliver_first_replies` should be called again soon."""
        return bool(self._first_replies)

    @property
    def pipe_bytes(self) -> int:
        """Bytes of large messages that ZeroMQ holds for all subscribers."""
        if self._in_pipes:
            self._in_pipes = [each for each in self._in_pipes if not each.tracker.done]
        return sum(each.size for each in self._in_pipes)

    @property
    def has_large_messages(self) -> bool:
        """Whether ZeroMQ held large messages when they were last counted."""
        return bool(self._in_pipes)

    def is_subscribed(self, identity: bytes) -> bool:
        subscriber = self.subscribers.get(identity)
        return subscriber is not None and subscriber.is_subscribed

    def has_undelivered(self, now: float, grace: float) -> bool:
        """Returns whether a result waits for a subscriber that is connected, or was ``grace`` seconds ago."""
        if self._first_replies:
            return True
        return self.num_bytes > 0 and any(
            subscriber.queue
            and (subscriber.subscriptions or now - max(subscriber.unsubscribed_at, subscriber.queue[-1].since) < grace)
            for _, subscriber in self.subscribers.items()
        )

    def close(self, linger_ms: int) -> None:
        """Closes the port after published results were sent, at most ``linger_ms`` later."""
        self._xpub.close(linger_ms)
        self._auth.close()
        self._context.term()

    # ---------------------------------------------------------------- delivery

    def put(self, identity: bytes, frames: Sequence[Any], now: float) -> None:
        """Publishes ``frames`` (without the topic) to ``identity``, or queues them until they can be sent."""
        subscriber = self.subscribers.get(identity)
        if subscriber is None:
            subscriber = self.subscribers.add_unsubscribed(identity, now)
            if len(self.subscribers.never_subscribed) > MAX_NEVER_SUBSCRIBED:
                self._drop_subscriber(next(iter(self.subscribers.never_subscribed)))
        sent: set[int] = set()
        if not subscriber.has_pending and not subscriber.in_pipe:
            subscriber.progress_at = now
        if subscriber.is_open and not subscriber.has_pending and self._send(identity, subscriber, frames, sent):
            return
        self.slow_readers.queue(subscriber, frames, now, sent)
        if subscriber.is_open:
            self._blocked[identity] = None
        if self.num_bytes > self.max_bytes or self.num_bytes + self.pipe_bytes > self.max_bytes:
            self.slow_readers.evict(self.pipe_bytes)

    def put_first_reply(self, identity: bytes, frames: Sequence[Any], now: float) -> None:
        """Publishes the reply to a connection's first request when the connection is likely to be subscribed.

        The request of a clone may arrive before its subscription, while other connections subscribe to its identity.
        If each of those has received a first reply, this reply waits for one more subscription.
        """
        if not self._put_if_expected(identity, frames, now):
            self._first_replies.append((identity, frames, now))
            if len(self._first_replies) > MAX_FIRST_REPLIES:
                self.put(*self._first_replies.popleft()[:2], now)

    def deliver_first_replies(self, now: float) -> None:
        """Publishes first replies whose subscription has arrived, or that waited ``FIRST_REPLY_SECONDS``."""
        for _ in range(len(self._first_replies)):
            identity, frames, since = reply = self._first_replies.popleft()
            if self._put_if_expected(identity, frames, now):
                continue
            if now - since >= FIRST_REPLY_SECONDS:
                self.put(identity, frames, now)
            else:
                self._first_replies.append(reply)

    def _put_if_expected(self, identity: bytes, frames: Sequence[Any], now: float) -> bool:
        subscriber = self.subscribers.get(identity)
        if subscriber is not None and subscriber.first_replies >= subscriber.subscriptions:
            return False
        self.put(identity, frames, now)
        subscriber = self.subscribers.get(identity)
        if subscriber is not None:
            subscriber.first_replies += 1
        return True

    def _send(self, identity: bytes, subscriber: Subscriber, frames: Sequence[Any], sent: set[int]) -> bool:
        """Sends a message to all shards of a subscriber that are not in ``sent``. Returns whether all have it."""
        size = max(frame_size(frame) for frame in frames)
        is_large = size > LARGE_FRAME
        if is_large and not subscriber.has_room(size, min(PIPE_BYTES, self.max_bytes // 16)):
            return False
        message, shards = [topic(identity), *frames], subscriber.shards
        if is_large:
            message = [zmq.Frame(f, track=True, copy=False) if frame_size(f) == size else f for f in message]
        num_before = len(sent)
        for shard in shards - sent if sent else shards:
            if self._xpub.send(shard, message, copy=not is_large):
                sent.add(shard)
        if is_large and len(sent) > num_before:
            tracked = next(frame for frame in message if isinstance(frame, zmq.Frame))
            entry = InPipe(tracked.tracker, size)
            subscriber.add_large(entry, bytes(frames[-1]))
            self._in_pipes.append(entry)
        if not sent >= shards:
            return False
        self.num_sent += 1
        return True

    def flush(self) -> None:
        """Sends queued results to open subscribers until their pipes are full."""
        for identity in list(self._blocked):
            subscriber = self.subscribers[identity]
            dropped = subscriber.dropped_requests
            while dropped and self._send(identity, subscriber, [self.slow_readers.error, b"", dropped[0]], set()):
                dropped.popleft()
            while subscriber.queue and not dropped:
                first = subscriber.queue[0]
                if not self._send(identity, subscriber, first.frames, first.sent):
                    break
                self.slow_readers.pop(subscriber)
            if not subscriber.has_pending:
                del self._blocked[identity]

    def _set_blocked(self, identity: bytes, subscriber: Subscriber) -> None:
        if subscriber.is_open and subscriber.has_pending:
            self._blocked[identity] = None
        else:
            self._blocked.pop(identity, None)

    # ---------------------------------------------------------------- subscriptions

    def on_subscription(self, now: float) -> bool:
        """Reads a bounded number of subscriptions. Call it when :meth:`fileno` is readable, or :attr:`has_unread`.

        Returns:
            Whether all were read.
        """
        for subscription in self._xpub.subscriptions(BURST):
            identity, is_subscribe, peer = subscription
            if not is_subscribe:
                subscriber = self.subscribers.unsubscribe(identity, peer, now)
            else:
                subscriber = self.subscribers.subscribe(identity, peer)
                if subscriber is None:
                    limit = self.subscribers.num_identities
                    self._xpub.reject(
                        peer, f"there are subscriptions to {limit} identities, which is the limit of this server"
                    )
                else:
                    self._xpub.accept(subscription)
            if subscriber is not None:
                self._set_blocked(identity, subscriber)
        return not self._xpub.has_unread

    # ---------------------------------------------------------------- limits

    def expire(self, now: float) -> None:
        """Drops expired results. Call it once a second."""
        for identity, subscriber in self.subscribers.items():
            if subscriber.is_quiet:
                continue
            if subscriber.in_pipe or subscriber.unconfirmed or subscriber.has_pending:
                subscriber.check_progress(now)
            if subscriber.has_closed_peers:
                self.subscribers.end_closed(identity, subscriber, now)
            self.slow_readers.expire(identity, subscriber, now)
            self._set_blocked(identity, subscriber)
            if not subscriber.has_pending and not subscriber.is_subscribed:
                self._drop_subscriber(identity)

    def free(self, size: int, now: float) -> None:
        """Drops results of ``size`` bytes of clients that do not read, as far as there are any."""
        for identity, subscriber in self.slow_readers.free(size, now):
            self._set_blocked(identity, subscriber)

    def _drop_subscriber(self, identity: bytes) -> None:
        self.slow_readers.forget(self.subscribers.remove(identity))
