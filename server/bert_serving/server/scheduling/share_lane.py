"""Queues the chunks of one lane by weighted fair queueing over shares. Pure: no sockets, no clock, no processes.

The share with the fewest tokens served, divided by its weight, is next. In a share, clients take turns as in ``Lane``.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic

from .lane import Key, Lane, QueuedChunk


class ShareLane(Generic[Key]):
    """Queues chunks with a share, in start-time fair queueing.

    Attributes:
        lanes: the queued chunks of each share that has some.
        start_tags: virtual start time of the next chunk of each share: tokens served, divided by the weight, plus the
            virtual time at which the share became active.
        virtual_time: smallest start tag of a waiting share; a share that becomes active starts here.
    """

    def __init__(self) -> None:
        self.lanes: dict[str, Lane[Key]] = {}
        self.start_tags: dict[str, float] = {}
        self.virtual_time = 0.0
        self._idle: dict[str, Lane[Key]] = {}  # lanes keep how much each client was served

    def __bool__(self) -> bool:
        return bool(self.lanes)

    def add(self, chunk: QueuedChunk[Key]) -> None:
        assert chunk.share is not None
        name = chunk.share.name
        lane = self.lanes.get(name)
        if lane is None:
            lane = self.lanes[name] = self._idle.pop(name) if name in self._idle else Lane()
            self.start_tags[name] = max(self.start_tags.get(name, 0.0), self.virtual_time)
        lane.add(chunk)

    def round_robin(self, limit: int) -> Iterator[QueuedChunk[Key]]:
        """Yields at least ``limit`` chunks, if so many wait, in the order in which the shares are due.

        Each share starts with its start tag. A chunk that is yielded delays the next one of its share by its tokens,
        divided by the weight.
        """
        order = [(self.start_tags[name], number, name) for number, name in enumerate(self.lanes)]
        heapq.heapify(order)
        chunks = {name: lane.round_robin(limit) for name, lane in self.lanes.items()}
        while order:
            tag, number, name = order[0]
            chunk = next(chunks[name], None)
            if chunk is None:
                heapq.heappop(order)
                continue
            heapq.heapreplace(order, (tag + _cost(chunk, chunk.num_tokens), number, name))
            yield chunk

    def advance(self, chunk: QueuedChunk[Key], tokens: int) -> None:
        """Adds served tokens to the start tags of the share and the client, and removes the chunk if it is empty."""
        assert chunk.share is not None
        name = chunk.share.name
        self.start_tags[name] += _cost(chunk, tokens)
        self.lanes[name].advance(chunk, tokens)
        self._remove_if_idle(name)

    def update_virtual_time(self) -> None:
        """Advances the virtual times. Takes O(clients), so call it once per batch."""
        for lane in self.lanes.values():
            lane.update_virtual_time()
        if self.lanes:
            self.virtual_time = max(self.virtual_time, min(self.start_tags[name] for name in self.lanes))

    def only_chunk(self) -> QueuedChunk[Key]:
        """Returns the only queued chunk."""
        (lane,) = self.lanes.values()
        return lane.only_chunk()

    def drop(self, client: bytes, dropped: set[Key]) -> list[QueuedChunk[Key]]:
        """Removes and returns the chunks of a client with these keys."""
        removed: list[QueuedChunk[Key]] = []
        for name in list(self.lanes):
            removed += self.lanes[name].drop(client, dropped)
            self._remove_if_idle(name)
        return removed

    def _remove_if_idle(self, name: str) -> None:
        if not self.lanes[name]:
            self._idle[name] = self.lanes.pop(name)


def _cost(chunk: QueuedChunk[Key], tokens: int) -> float:
    assert chunk.share is not None
    return tokens / chunk.share.weight
