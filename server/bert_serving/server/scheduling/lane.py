"""Queues the chunks of one lane, fairly over clients. Pure: no sockets, no clock, no processes."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

import msgspec
import numpy as np

from ..shares.share import Share

Key = TypeVar("Key", bound=Hashable)
#: The order of a single row, which is not written to.
_FIRST = np.zeros(1, np.int64)
_FIRST.flags.writeable = False


class BatchSlice(msgspec.Struct, Generic[Key], frozen=True):
    """Holds the rows of one chunk that go into a batch. ``rows`` is int64 ``[k]``, ``lengths`` int32 ``[k]``."""

    key: Key
    rows: np.ndarray
    lengths: np.ndarray


class QueuedChunk(Generic[Key]):
    """Holds the rows of a queued chunk, longest first. Rows before ``start`` have left the queue."""

    __slots__ = ("client", "key", "lengths", "rows", "share", "start")

    def __init__(
        self, key: Key, client: bytes, lengths: np.ndarray, rows: np.ndarray | None, share: Share | None = None
    ) -> None:
        self.key, self.client, self.share, self.start = key, client, share, 0
        if len(lengths) == 1:  # neither is written to: only rows between others move
            self.rows, self.lengths = _FIRST if rows is None else rows, lengths
            return
        order = np.argsort(-lengths, kind="stable")
        self.rows = order if rows is None else rows[order]
        self.lengths = lengths[order]

    @property
    def remaining(self) -> int:
        return len(self.rows) - self.start

    @property
    def num_tokens(self) -> int:
        """Tokens of the rows that are queued."""
        return int(self.lengths[self.start :].sum())

    def take_first(self, count: int) -> BatchSlice[Key]:
        """Removes the next ``count`` rows."""
        first, last = self.start, self.start + count
        self.start = last
        if not first and last == len(self.rows):
            return BatchSlice(self.key, self.rows, self.lengths)
        return BatchSlice(self.key, self.rows[first:last], self.lengths[first:last])

    def take(self, chosen: np.ndarray) -> BatchSlice[Key]:
        """Removes the rows at ``chosen``, ascending offsets from ``start``. Rows between them move up."""
        first, last = self.start, self.start + int(chosen[-1]) + 1
        count = len(chosen)
        if last - first == count:
            taken = BatchSlice(self.key, self.rows[first:last], self.lengths[first:last])
        else:
            at = first + chosen
            taken = BatchSlice(self.key, self.rows[at], self.lengths[at])
            kept = np.ones(last - first, bool)
            kept[chosen] = False
            self.rows[first + count : last] = self.rows[first:last][kept]
            self.lengths[first + count : last] = self.lengths[first:last][kept]
        self.start += count
        return taken


class Lane(Generic[Key]):
    """Queues chunks by client, in start-time fair queueing.

    Attributes:
        clients: queued chunks of each client, oldest first.
        start_tags: virtual start time of the next chunk of each client: tokens served, plus the virtual time at which
            the client became active.
        virtual_time: smallest start tag of a waiting client; a client that becomes active starts here.
    """

    def __init__(self) -> None:
        self.clients: dict[bytes, deque[QueuedChunk[Key]]] = {}
        self.start_tags: dict[bytes, float] = {}
        self.virtual_time = 0.0

    def __bool__(self) -> bool:
        return bool(self.clients)

    def add(self, chunk: QueuedChunk[Key]) -> None:
        queue = self.clients.get(chunk.client)
        if queue is None:
            queue = self.clients[chunk.client] = deque()
            self.start_tags[chunk.client] = max(self.start_tags.get(chunk.client, 0.0), self.virtual_time)
        queue.append(chunk)

    def round_robin(self, limit: int) -> Iterator[QueuedChunk[Key]]:
        """Yields at least ``limit`` chunks, if so many wait: the first of each client, then the second of each, ...

        Clients with smaller start tags come first.
        """
        order = list(self.clients)
        if len(order) > 1:
            order = heapq.nsmallest(limit, order, key=self.start_tags.__getitem__)
        queues = [iter(self.clients[client]) for client in order]
        while queues:
            unfinished = []
            for queue in queues:
                chunk = next(queue, None)
                if chunk is not None:
                    unfinished.append(queue)
                    yield chunk
            queues = unfinished

    def advance(self, chunk: QueuedChunk[Key], tokens: int) -> None:
        """Adds served tokens to the start tag of the client, and removes the chunk if it is empty."""
        self.start_tags[chunk.client] += tokens
        if not chunk.remaining:
            queue = self.clients[chunk.client]
            if queue[0] is chunk:
                queue.popleft()
            else:
                queue.remove(chunk)
            if not queue:
                del self.clients[chunk.client]

    def update_virtual_time(self) -> None:
        """Advances the virtual time. Takes O(clients), so call it once per batch."""
        if self.clients:
            self.virtual_time = max(self.virtual_time, min(self.start_tags[client] for client in self.clients))
        if len(self.start_tags) > 1000 + 2 * len(self.clients):  # drop tags that no longer matter
            self.start_tags = {
                client: tag
                for client, tag in self.start_tags.items()
                if client in self.clients or tag > self.virtual_time
            }

    def only_chunk(self) -> QueuedChunk[Key]:
        """Returns the only queued chunk."""
        (queue,) = self.clients.values()
        (chunk,) = queue
        return chunk

    def drop(self, client: bytes, dropped: set[Key]) -> list[QueuedChunk[Key]]:
        """Removes and returns the chunks of a client with these keys."""
        queue = self.clients.get(client)
        if queue is None:
            return []
        kept = deque(chunk for chunk in queue if chunk.key not in dropped)
        removed = [chunk for chunk in queue if chunk.key in dropped]
        if kept:
            self.clients[client] = kept
        else:
            del self.clients[client]
        return removed
