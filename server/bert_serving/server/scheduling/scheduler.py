"""Selects the sequences of the next batch. Pure: no sockets, no clock, no processes.

Work arrives as *chunks*: sequences of one request, with their lengths in tokens. A batch is cut from the queued chunks:

1.  **Lanes.** Chunks of requests with at most ``priority_batch_size`` sequences wait in the small lane, all others in
    the bulk lane. The small lane goes first. After ``max_consecutive_small`` small batches in a row a waiting bulk
    batch is due, so the bulk lane does not starve.
2.  **Fairness.** In a lane, the client with the fewest tokens served is next (start-time fair queueing: an idle client
    earns no credit). The oldest chunk of this client provides the *anchor* of the batch, its longest sequence left.
3.  **Filling.** The batch is filled around the anchor with sequences of similar length, of all clients and, if there
    is room, of the other lane. It ends at ``max_sequences``, or where padding to its longest sequence would exceed
    ``max_tokens``.

Requeued batches (a worker died, or an engine failed) stay together and go out before everything else.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np

from ..config.server_config import ServerConfig
from ..shares.share import QUERY, Share
from .lane import BatchSlice as BatchSlice
from .lane import Key, Lane, QueuedChunk
from .share_lane import ShareLane

#: Largest ratio of longest to shortest sequence in a batch, if more sequences wait than one batch can hold: later
#: batches suit the short ones better.
MAX_LENGTH_RATIO = 2


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds one batch: a number of sequences, and a number of tokens with padding to the longest sequence."""

    max_sequences: int
    max_tokens: int


class Scheduler(Generic[Key]):
    """Queues sequences and selects the next batch.

    Args:
        priority_batch_size: largest number of sequences in a request that uses the small lane.
        max_consecutive_small: number of small batches in a row after which a waiting bulk batch is due.
        has_shares: every chunk has a share; see ``share_lane``.

    Attributes:
        is_bulk: the last batch is one of the bulk lane, or was requeued.
    """

    def __init__(self, priority_batch_size: int = 16, max_consecutive_small: int = 4, has_shares: bool = False) -> None:
        self.priority_batch_size = priority_batch_size
        self.max_consecutive_small = max_consecutive_small
        self.num_sequences = 0
        self.num_tokens = 0
        make_lane = ShareLane[Key] if has_shares else Lane[Key]
        self._small: Lane[Key] | ShareLane[Key] = make_lane()
        self._bulk: Lane[Key] | ShareLane[Key] = make_lane()
        self._requeued: deque[list[BatchSlice[Key]]] = deque()
        self._consecutive_small, self.is_bulk = 0, False

    def __len__(self) -> int:
        """Returns the number of queued sequences."""
        return self.num_sequences

    def add(
        self,
        key: Key,
        client: bytes,
        lengths: np.ndarray,
        request_size: int,
        rows: np.ndarray | None = None,
        share: Share | None = None,
    ) -> None:
        """Queues sequences of chunk ``key``: ``rows``, or all. ``lengths`` is int32 ``[n]``, ``rows`` int64 ``[n]``.

        Args:
            share: that of the client; its class, if it has one, selects the lane.
        """
        is_small = request_size <= self.priority_batch_size
        if share is not None and share.request_class is not None:
            is_small = share.request_class == QUERY
        lane = self._small if is_small else self._bulk
        lane.add(QueuedChunk(key, client, lengths, rows, share))
        self.num_sequences += len(lengths)
        self.num_tokens += _sum(lengths)

    def requeue(self, slices: list[BatchSlice[Key]]) -> None:
        """Queues a returned batch. It goes out next, whole or in smaller batches, never joined with others."""
        if slices:
            self._requeued.append(slices)
            self._count(slices, +1)

    @property
    def has_bulk_only(self) -> bool:
        """Whether the next batch is one of the bulk lane, and no small request waits."""
        return bool(self._bulk) and not self._small and not self._requeued

    def next_batch(
        self,
        limits: BatchLimits,
        is_of_one_lane: bool = False,
        bulk_tokens: int | None = None,
        mixed_tokens: int | None = None,
    ) -> list[BatchSlice[Key]]:
        """Removes and returns the next batch; an empty list if the queue is empty.

        Args:
            is_of_one_lane: the batch has sequences of one lane only.
            bulk_tokens: limit of the tokens in a batch of the bulk lane.
            mixed_tokens: limit of the tokens in a batch of the small lane that has sequences of the bulk lane, too.
        """
        self.is_bulk = True
        if self._requeued:
            slices = self._requeued.popleft()
            head, rest = _split_to_fit(slices, limits)
            if rest:
                self._requeued.appendleft(rest)
            self._count(head, -1)
            return head
        if not self._small and not self._bulk:
            return []
        bulk_is_due = self._bulk and (not self._small or self._consecutive_small >= self.max_consecutive_small)
        first, second = (self._bulk, self._small) if bulk_is_due else (self._small, self._bulk)
        self._consecutive_small = 0 if bulk_is_due else self._consecutive_small + 1
        self.is_bulk = first is self._bulk
        if self.is_bulk and bulk_tokens is not None:
            limits = BatchLimits(limits.max_sequences, min(limits.max_tokens, bulk_tokens))
        if mixed_tokens is not None and not self.is_bulk and self._bulk:
            if self._has_small(mixed_tokens, limits):
                is_of_one_lane = True
            else:
                limits = BatchLimits(limits.max_sequences, min(limits.max_tokens, mixed_tokens))
        lanes = (first,) if is_of_one_lane else (first, second)
        slices = self._take_only(first) if self.num_sequences == 1 else self._fill_batch(lanes, limits)
        self._count(slices, -1)
        return slices

    def drop(self, client: bytes, dropped: set[Key]) -> None:
        """Removes the queued sequences of the chunks ``dropped``, all of them of ``client``."""
        for lane in (self._small, self._bulk):
            for chunk in lane.drop(client, dropped):
                self.num_sequences -= chunk.remaining
                self.num_tokens -= chunk.num_tokens
        if not self._requeued:
            return
        batches, self._requeued = list(self._requeued), deque()
        for slices in batches:
            self._count(slices, -1)
            self.requeue([each for each in slices if each.key not in dropped])

    def has_full_batch(self, limits: BatchLimits) -> bool:
        """Returns whether more sequences could not improve the next batch."""
        return (
            bool(self._requeued)
            or self.num_sequences >= limits.max_sequences
            or self.num_tokens >= limits.max_tokens // 2
        )

    def _has_small(self, tokens: int, limits: BatchLimits) -> bool:
        """Returns whether small requests of so many tokens, or of a full batch, wait."""
        sequences = 0
        for chunk in self._small.round_robin(limits.max_sequences):
            sequences, tokens = sequences + chunk.remaining, tokens - chunk.num_tokens
            if tokens <= 0 or sequences >= limits.max_sequences:
                return True
        return False

    def _count(self, slices: list[BatchSlice[Key]], sign: int) -> None:
        for each in slices:
            self.num_sequences += sign * len(each.rows)
            self.num_tokens += sign * _sum(each.lengths)

    @staticmethod
    def _take_only(lane: Lane[Key] | ShareLane[Key]) -> list[BatchSlice[Key]]:
        """Takes the only queued sequence: the fast path of ``_fill_batch`` for a single short request."""
        chunk = lane.only_chunk()
        taken = chunk.take_first(1)
        lane.advance(chunk, int(taken.lengths[0]))
        lane.update_virtual_time()
        return [taken]

    def _fill_batch(self, lanes: tuple[Lane[Key] | ShareLane[Key], ...], limits: BatchLimits) -> list[BatchSlice[Key]]:
        """Cuts a batch from the lanes; the first provides the anchor."""
        window = 2 * limits.max_sequences
        candidates: list[tuple[Lane[Key] | ShareLane[Key], QueuedChunk[Key], int]] = []
        seen = 0
        for lane in lanes:
            for chunk in lane.round_robin(window - seen):
                count = min(chunk.remaining, window - seen)
                candidates.append((lane, chunk, count))
                seen += count
                if seen >= window:
                    break
            if seen >= window or seen >= limits.max_sequences:
                break
        lengths = np.concatenate([chunk.lengths[chunk.start : chunk.start + count] for _, chunk, count in candidates])
        fits = seen <= limits.max_sequences and seen * int(lengths.max()) <= limits.max_tokens
        chosen = None if fits else _select_similar(lengths, limits)

        slices, offset = [], 0
        for lane, chunk, count in candidates:
            if chosen is None:
                taken = chunk.take_first(count)
            else:
                offsets = np.flatnonzero(chosen[offset : offset + count])
                offset += count
                if not len(offsets):
                    continue
                taken = chunk.take(offsets)
            slices.append(taken)
            lane.advance(chunk, _sum(taken.lengths))
        for lane in lanes:
            lane.update_virtual_time()
        return slices


def make_scheduler(config: ServerConfig) -> Scheduler[Any]:
    """Returns the scheduler of a server."""
    return Scheduler(config.priority_batch_size, has_shares=config.http_keys is not None)


def _sum(lengths: np.ndarray) -> int:
    return int(lengths[0]) if len(lengths) == 1 else int(lengths.sum())


def _select_similar(lengths: np.ndarray, limits: BatchLimits) -> np.ndarray:
    """Selects sequences around the anchor ``lengths[0]``, of those that do not all fit: bool ``[n]``."""
    n = len(lengths)
    order = np.argsort(-lengths, kind="stable")
    start = int(np.flatnonzero(order == 0)[0])  # the anchor is the longest of the batch...
    size = max(1, min(limits.max_sequences, limits.max_tokens // int(lengths[order[start]])))
    # ...unless too few sequences are shorter: longer ones join while the padded batch stays within the limits.
    while start > 0 and start + size > n:
        longer = int(lengths[order[start - 1]])
        wider = max(1, min(limits.max_sequences, limits.max_tokens // longer))
        if n - start + 1 > wider or longer > MAX_LENGTH_RATIO * lengths[0]:
            break
        start, size = start - 1, wider
    window = order[start : start + size]
    chosen = np.zeros(n, bool)
    chosen[window[lengths[window] * MAX_LENGTH_RATIO >= lengths[window[0]]]] = True
    return chosen


def _split_to_fit(
    slices: list[BatchSlice[Key]], limits: BatchLimits
) -> tuple[list[BatchSlice[Key]], list[BatchSlice[Key]]]:
    """Splits a batch into its longest head within the limits, of at least one sequence, and the rest."""
    lengths = np.concatenate([each.lengths for each in slices])
    padded = np.maximum.accumulate(lengths).astype(np.int64) * np.arange(1, len(lengths) + 1)
    fits = (padded <= limits.max_tokens) & (np.arange(len(lengths)) < limits.max_sequences)
    count = len(lengths) if fits.all() else max(1, int(np.argmin(fits)))
    return split(slices, count)


def split(slices: list[BatchSlice[Key]], count: int) -> tuple[list[BatchSlice[Key]], list[BatchSlice[Key]]]:
    """Splits a batch into its first ``count`` sequences and the rest."""
    head: list[BatchSlice[Key]] = []
    for index, each in enumerate(slices):
        size = len(each.rows)
        if count >= size:
            head.append(each)
            count -= size
            if not count:
                return head, slices[index + 1 :]
        else:
            if count:
                head.append(BatchSlice(each.key, each.rows[:count], each.lengths[:count]))
            rest = BatchSlice(each.key, each.rows[count:], each.lengths[count:])
            return head, [rest, *slices[index + 1 :]]
    return head, []
