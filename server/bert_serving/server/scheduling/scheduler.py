"""Which sequences go into the next batch. Pure: no sockets, no clock, no processes, so it can be tested by hand.

Work arrives as *parts*: some sequences of one request, with their lengths in tokens. A batch is cut from what waits:

1.  **Lanes.** Parts of requests with at most ``priority_batch_size`` sequences wait in the small lane, the others in
    the bulk lane. The small lane goes first; yet after ``patience`` small batches in a row one bulk batch is due, so
    bulk never starves.
2.  **Fairness.** In a lane, the client that got the fewest tokens so far is next (start-time fair queueing: one that
    comes back after a pause gets no credit for it). Its oldest part gives the batch its *anchor*, the longest
    sequence it still has.
3.  **Filling.** Around the anchor the batch is filled with sequences of similar length, of every client and, if
    there is room, of the other lane, until it has ``max_sequences``, or padding it to its longest sequence would
    exceed ``max_tokens``.

Batches that came back (a worker died, or an engine failed) are kept whole and go out before everything else.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import numpy as np

Key = Hashable

#: When more waits than one batch can hold, sequences share it only up to this ratio of longest to shortest: there
#: will be better company for the short ones.
MAX_STRETCH = 2
_FIRST = np.zeros(1, np.int64)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of one batch: a number of sequences, and of tokens when padded to the longest."""

    max_sequences: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class BatchSlice:
    """Rows of one part that go into a batch. ``rows`` int64, ``lengths`` int32, both ``[k]``."""

    key: Key
    rows: np.ndarray
    lengths: np.ndarray


class _Part:
    """A part that waits: its rows from longest to shortest, those before ``start`` are gone."""

    __slots__ = ("client", "key", "lengths", "rows", "start")

    def __init__(self, key: Key, client: bytes, lengths: np.ndarray) -> None:
        self.key, self.client, self.start = key, client, 0
        self.rows = np.argsort(-lengths, kind="stable") if len(lengths) > 1 else np.zeros(1, np.int64)
        self.lengths = lengths[self.rows]

    @property
    def remaining(self) -> int:
        return len(self.rows) - self.start

    def take(self, chosen: np.ndarray) -> BatchSlice:
        """Removes the rows at ``chosen``, ascending offsets from ``start``; those passed over move up."""
        first, last = self.start, self.start + int(chosen[-1]) + 1
        count = len(chosen)
        if last - first == count:
            piece = BatchSlice(self.key, self.rows[first:last], self.lengths[first:last])
        else:
            at = first + chosen
            piece = BatchSlice(self.key, self.rows[at], self.lengths[at])
            kept = np.ones(last - first, bool)
            kept[chosen] = False
            self.rows[first + count : last] = self.rows[first:last][kept]
            self.lengths[first + count : last] = self.lengths[first:last][kept]
        self.start += count
        return piece


class _Lane:
    """Parts by client, and how many tokens each client was served."""

    def __init__(self) -> None:
        self.clients: dict[bytes, deque[_Part]] = {}
        self.served: dict[bytes, float] = {}
        self.floor = 0.0  # the least that a waiting client was served: where newcomers start

    def __bool__(self) -> bool:
        return bool(self.clients)

    def add(self, part: _Part) -> None:
        queue = self.clients.get(part.client)
        if queue is None:
            queue = self.clients[part.client] = deque()
            self.served[part.client] = max(self.served.get(part.client, 0.0), self.floor)
        queue.append(part)

    def in_turn(self, most: int) -> Iterator[_Part]:
        """At least ``most`` parts, if there are so many, in the order of service: the first of each client, least
        served first, then the second of each..."""
        order = list(self.clients)
        if len(order) > 1:
            order = heapq.nsmallest(most, order, key=self.served.__getitem__)
        queues = [iter(self.clients[client]) for client in order]
        while queues:
            alive = []
            for queue in queues:
                part = next(queue, None)
                if part is not None:
                    alive.append(queue)
                    yield part
            queues = alive

    def charge(self, part: _Part, tokens: int) -> None:
        self.served[part.client] += tokens
        if not part.remaining:
            queue = self.clients[part.client]
            if queue[0] is part:
                queue.popleft()
            else:
                queue.remove(part)
            if not queue:
                del self.clients[part.client]

    def settle(self) -> None:
        """Brings the floor up to date, once a batch: it looks at every client."""
        if self.clients:
            self.floor = max(self.floor, min(self.served[client] for client in self.clients))
        if len(self.served) > 1000 + 2 * len(self.clients):  # forget clients that are long gone
            self.served = {c: s for c, s in self.served.items() if c in self.clients or s > self.floor}


class Scheduler:
    """What waits, and the choice of what is next.

    Args:
        priority_batch_size: requests of at most so many sequences use the small lane.
        patience: small batches in a row after which a waiting bulk batch is due.
    """

    def __init__(self, priority_batch_size: int = 16, patience: int = 4) -> None:
        self.priority_batch_size = priority_batch_size
        self.patience = patience
        self.num_sequences = 0
        self.num_tokens = 0
        self._small, self._bulk = _Lane(), _Lane()
        self._returned: deque[list[BatchSlice]] = deque()
        self._small_in_a_row = 0

    def __len__(self) -> int:
        """Sequences that wait."""
        return self.num_sequences

    def add(self, key: Key, client: bytes, lengths: np.ndarray, request_size: int) -> None:
        """Queues the sequences 0..n-1 of part ``key``. ``lengths`` int32 ``[n]``, n >= 1."""
        lane = self._small if request_size <= self.priority_batch_size else self._bulk
        lane.add(_Part(key, client, lengths))
        self.num_sequences += len(lengths)
        self.num_tokens += _sum(lengths)

    def give_back(self, pieces: list[BatchSlice]) -> None:
        """Queues a batch that came back; it goes out next, unchanged or in smaller batches, never with others."""
        if pieces:
            self._returned.append(pieces)
            self._count(pieces, +1)

    def next_batch(self, limits: BatchLimits) -> list[BatchSlice]:
        """Removes and returns the next batch; an empty list if nothing waits."""
        if self._returned:
            pieces = self._returned.popleft()
            head, rest = _split_to_fit(pieces, limits)
            if rest:
                self._returned.appendleft(rest)
            self._count(head, -1)
            return head
        if not self._small and not self._bulk:
            return []
        bulk_is_due = self._bulk and (not self._small or self._small_in_a_row >= self.patience)
        first, second = (self._bulk, self._small) if bulk_is_due else (self._small, self._bulk)
        self._small_in_a_row = 0 if bulk_is_due else self._small_in_a_row + 1
        pieces = self._take_last(first) if self.num_sequences == 1 else self._cut(first, second, limits)
        self._count(pieces, -1)
        return pieces

    def drop(self, client: bytes, is_dropped: set[Key]) -> None:
        """Forgets all that waits of the parts of ``client`` in ``is_dropped``."""
        for lane in (self._small, self._bulk):
            queue = lane.clients.get(client)
            if queue is None:
                continue
            for part in [part for part in queue if part.key in is_dropped]:
                self.num_sequences -= part.remaining
                self.num_tokens -= int(part.lengths[part.start :].sum())
            kept = deque(part for part in queue if part.key not in is_dropped)
            if kept:
                lane.clients[client] = kept
            else:
                del lane.clients[client]
        if not self._returned:
            return
        batches, self._returned = list(self._returned), deque()
        for pieces in batches:
            self._count(pieces, -1)
            self.give_back([piece for piece in pieces if piece.key not in is_dropped])

    def has_full_batch(self, limits: BatchLimits) -> bool:
        """Whether waiting longer could not make the next batch better."""
        return (
            bool(self._returned)
            or self.num_sequences >= limits.max_sequences
            or self.num_tokens >= limits.max_tokens // 2
        )

    def _count(self, pieces: list[BatchSlice], sign: int) -> None:
        for piece in pieces:
            self.num_sequences += sign * len(piece.rows)
            self.num_tokens += sign * _sum(piece.lengths)

    @staticmethod
    def _take_last(lane: _Lane) -> list[BatchSlice]:
        """The only sequence that waits: ``_cut`` where there is no choice, for the sake of those who come alone."""
        (queue,) = lane.clients.values()
        (part,) = queue
        piece = part.take(_FIRST)
        lane.charge(part, int(piece.lengths[0]))
        lane.settle()
        return [piece]

    def _cut(self, first: _Lane, second: _Lane, limits: BatchLimits) -> list[BatchSlice]:
        window = 2 * limits.max_sequences
        parts: list[tuple[_Lane, _Part, int]] = []
        seen = 0
        for lane in (first, second):
            for part in lane.in_turn(window - seen):
                count = min(part.remaining, window - seen)
                parts.append((lane, part, count))
                seen += count
                if seen >= window:
                    break
            if seen >= window or seen >= limits.max_sequences:
                break
        lengths = np.concatenate([part.lengths[part.start : part.start + count] for _, part, count in parts])
        chosen = _similar(lengths, limits)

        pieces, offset = [], 0
        for lane, part, count in parts:
            mine = np.flatnonzero(chosen[offset : offset + count])
            offset += count
            if len(mine):
                piece = part.take(mine)
                pieces.append(piece)
                lane.charge(part, _sum(piece.lengths))
        for lane in (first, second):
            lane.settle()
        return pieces


def _sum(lengths: np.ndarray) -> int:
    return int(lengths[0]) if len(lengths) == 1 else int(lengths.sum())


def _similar(lengths: np.ndarray, limits: BatchLimits) -> np.ndarray:
    """Marks the sequences of a batch around the anchor ``lengths[0]``: bool ``[n]``, the anchor among them."""
    n = len(lengths)
    longest = int(lengths.max())
    if n <= limits.max_sequences and n * longest <= limits.max_tokens:
        return np.ones(n, bool)
    order = np.argsort(-lengths, kind="stable")
    start = int(np.flatnonzero(order == 0)[0])  # the anchor is the longest of the batch...
    size = max(1, min(limits.max_sequences, limits.max_tokens // int(lengths[order[start]])))
    # ...unless too few are shorter: then longer ones join, as long as the padded batch stays in bounds.
    while start > 0 and start + size > n:
        longer = int(lengths[order[start - 1]])
        wider = max(1, min(limits.max_sequences, limits.max_tokens // longer))
        if n - start + 1 > wider or longer > MAX_STRETCH * lengths[0]:
            break
        start, size = start - 1, wider
    window = order[start : start + size]
    chosen = np.zeros(n, bool)
    chosen[window[lengths[window] * MAX_STRETCH >= lengths[window[0]]]] = True
    return chosen


def _split_to_fit(pieces: list[BatchSlice], limits: BatchLimits) -> tuple[list[BatchSlice], list[BatchSlice]]:
    """The longest head of a batch that is within the limits (at least one sequence), and the rest."""
    lengths = np.concatenate([piece.lengths for piece in pieces])
    padded = np.maximum.accumulate(lengths).astype(np.int64) * np.arange(1, len(lengths) + 1)
    fits = (padded <= limits.max_tokens) & (np.arange(len(lengths)) < limits.max_sequences)
    count = len(lengths) if fits.all() else max(1, int(np.argmin(fits)))
    return split(pieces, count)


def split(pieces: list[BatchSlice], count: int) -> tuple[list[BatchSlice], list[BatchSlice]]:
    """The first ``count`` sequences of a batch, and the others."""
    head: list[BatchSlice] = []
    for index, piece in enumerate(pieces):
        size = len(piece.rows)
        if count >= size:
            head.append(piece)
            count -= size
            if not count:
                return head, pieces[index + 1 :]
        else:
            if count:
                head.append(BatchSlice(piece.key, piece.rows[:count], piece.lengths[:count]))
            rest = BatchSlice(piece.key, piece.rows[count:], piece.lengths[count:])
            return head, [rest, *pieces[index + 1 :]]
    return head, []
