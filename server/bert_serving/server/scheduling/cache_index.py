"""Finds sequences whose vectors need no worker: those in the sink's cache, and those of batches in flight.

- A *hit* is a sequence whose vector the cache has. The index asks the sink to add it to the job.
- A *coalesced* sequence is equal to one that a worker computes at this time. It waits for that batch.

The sink decides which vectors it holds, because it counts their memory. It reports each vector that it drops. If a
request for a vector crosses such a report, the sink answers CACHE_MISS, and a worker computes the sequence.

Without a cache (``-cache_mb 0``) only short requests are compared, and only while a batch is in flight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from ..config.server_config import ServerConfig
from ..ipc.cached_rows import MAX_POSITIONS, CachedRows, first_entry
from ..ipc.messages import Command
from ..model.pooling import PoolingStrategy
from .jobs import Job, JobChunk
from .scheduler import BatchSlice
from .sequence_keys import SequenceKeys

Slices = list[BatchSlice[JobChunk]]
#: Tokens of one CACHED_ROWS if each token has a vector. The sink copies these vectors at once.
MAX_TOKENS = 8192


@dataclass(slots=True)
class KnownRows:
    """Sequences that need no worker.

    Attributes:
        hits: rows of each chunk, and their entries in the cache.
        waiting: entry of a batch in flight, chunk and row.
    """

    hits: dict[JobChunk, tuple[list[int], list[int]]] = field(default_factory=dict)
    waiting: list[tuple[int, JobChunk, int]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.hits or self.waiting)

    def jobs(self) -> set[Job]:
        return {chunk.job for chunk in self.hits} | {chunk.job for _, chunk, _ in self.waiting}


@dataclass(slots=True)
class _Fetch:
    """Rows that the sink was asked for."""

    slices: Slices
    is_coalesced: bool


class CacheIndex:
    """Knows the entries of the cache by sequence. Pure: no sockets, no clock.

    Args:
        send_to_sink: called with a command for the sink.
        new_batch_id: returns the next id of a batch.

    Attributes:
        is_enabled: whether the sink has a cache.
        num_bytes: memory of the cache, by the last report of the sink.
    """

    def __init__(
        self, config: ServerConfig, send_to_sink: Callable[[Command], None], new_batch_id: Callable[[], int]
    ) -> None:
        self._send, self._new_batch_id = send_to_sink, new_batch_id
        self.is_enabled = config.cache_mb > 0
        self._max_bytes = config.cache_mb * 2**20
        self._max_job_size = config.max_request_size if self.is_enabled else config.priority_batch_size
        self._is_token_level = config.pooling_strategy == PoolingStrategy.NONE
        self._keys = SequenceKeys(config.vector_digest)
        self.num_bytes = self._num_hits = self._num_misses = self._num_coalesced = self._num_evictions = 0
        self.reset()

    def reset(self) -> None:
        """Forgets all entries: the sink was restarted."""
        self.num_bytes = 0
        self._cached: dict[bytes, int] = {}  # entries by key
        self._key_of: dict[int, bytes] = {}  # the reverse
        self._computing: dict[bytes, int] = {}  # entries that batches in flight will have, by key
        self._batches: dict[int, list[tuple[bytes, int]]] = {}  # their keys and entries, by batch
        self._unkeyed: dict[int, Slices] = {}  # batches whose keys nothing has needed yet
        self._waiting: dict[int, list[tuple[JobChunk, int]]] = {}  # coalesced sequences, by entry
        self._fetches: dict[int, _Fetch] = {}

    def to_dict(self) -> dict[str, Any]:
        """Returns the figures for the status. Numbers count sequences since the start."""
        return {
            "max_bytes": self._max_bytes,
            "bytes": self.num_bytes,
            "entries": len(self._cached),
            "hits": self._num_hits,
            "misses": self._num_misses,
            "coalesced": self._num_coalesced,
            "evictions": self._num_evictions,
        }

    # ---------------------------------------------------------------- sequences

    def find(self, chunk: JobChunk, rows: np.ndarray) -> tuple[KnownRows, np.ndarray]:
        """Returns the known ones of some rows of a chunk, and the others. Call :meth:`serve` with the known ones."""
        known = KnownRows()
        if not _is_comparable(chunk) or not self.may_know(chunk.job):
            return known, rows
        numbers = rows.tolist()
        keys = self._keys_of(chunk, numbers)
        others = [row for row, key in zip(numbers, keys, strict=True) if not self._add_if_known(known, chunk, row, key)]
        return known, rows if len(others) == len(rows) else np.array(others, np.int64)

    def take_known(self, slices: Slices, batch_id: int) -> tuple[KnownRows, Slices]:
        """Separates the known rows of a batch from those that a worker computes, as the batch ``batch_id``.

        If rows are left for the worker, :meth:`batch_done` or :meth:`batch_failed` must follow.
        """
        known, left = KnownRows(), slices
        if self.is_enabled:
            left = self._start_batch(slices, batch_id, known)
        else:
            if self._batches or self._unkeyed:
                left = [self._without_known(each, known) for each in slices]
                left = [each for each in left if len(each.rows)]
            if left:
                self._unkeyed[batch_id] = left
        return known, left

    def serve(self, known: KnownRows) -> None:
        """Asks the sink for known rows, now or when their batch is done. Their jobs must be announced."""
        for chunk, (rows, entries) in known.hits.items():
            self._fetch(chunk, rows, entries, is_coalesced=False)
        for entry, chunk, row in known.waiting:
            self._waiting.setdefault(entry, []).append((chunk, row))

    def may_know(self, job: Job) -> bool:
        """Returns whether a sequence of a job may be known. It is not while no cache exists and nothing is computed."""
        if job.size > self._max_job_size:
            return False
        if self._unkeyed:
            self._add_keys()
        return bool(self._cached or self._computing)

    def _keys_of(self, chunk: JobChunk, rows: list[int]) -> list[bytes]:
        """Returns the keys of some sequences of a chunk. That of a single one is needed up to three times."""
        if chunk.key:
            return [chunk.key] * len(rows)
        keys = self._keys.of(chunk, rows)
        if len(keys) == len(chunk.tokenized.lengths) == 1:
            chunk.key = keys[0]
        return keys

    def _add_if_known(self, known: KnownRows, chunk: JobChunk, row: int, key: bytes) -> bool:
        entry = self._cached.get(key)
        if entry is not None:
            rows, entries = known.hits.setdefault(chunk, ([], []))
            rows.append(row)
            entries.append(entry)
            return True
        entry = self._computing.get(key)
        if entry is None or not chunk.waits_for_equals:
            return False
        known.waiting.append((entry, chunk, row))
        return True

    def _start_batch(self, slices: Slices, batch_id: int, known: KnownRows) -> Slices:
        """Gives each sequence of a batch its entry. Sequences of a batch are distinct then."""
        entry = first_entry(batch_id)
        end = entry + MAX_POSITIONS
        batch: list[tuple[bytes, int]] = []
        left = []
        for each in slices:
            if not _is_comparable(each.key):
                entry += _count_rows(each)
                left.append(each)
                continue
            rows, kept = each.rows.tolist(), []
            for index, (row, key) in enumerate(zip(rows, self._keys_of(each.key, rows), strict=True)):
                if self._add_if_known(known, each.key, row, key):
                    continue
                kept.append(index)
                if entry < end:
                    self._computing[key] = entry
                    batch.append((key, entry))
                entry += 1
            if kept:
                left.append(each if len(kept) == len(rows) else _choose(each, kept))
        if left:
            self._batches[batch_id] = batch
        return left

    def _without_known(self, each: BatchSlice[JobChunk], known: KnownRows) -> BatchSlice[JobChunk]:
        found, others = self.find(each.key, each.rows)
        known.waiting += found.waiting
        return _choose(each, np.flatnonzero(np.isin(each.rows, others)).tolist()) if found else each

    def _add_keys(self) -> None:
        """Computes the keys of batches in flight, when the first request arrives that may be equal."""
        for batch_id, slices in self._unkeyed.items():
            entry = first_entry(batch_id)
            end = entry + MAX_POSITIONS
            batch = self._batches[batch_id] = []
            for each in slices:
                after = entry + _count_rows(each)
                if _is_comparable(each.key) and each.key.job.size <= self._max_job_size and after <= end:
                    keys = self._keys_of(each.key, each.rows.tolist())
                    batch += zip(keys, range(entry, after), strict=True)
                entry = after
            for key, entry in batch:
                self._computing.setdefault(key, entry)
        self._unkeyed.clear()

    def _fetch(self, chunk: JobChunk, rows: list[int], entries: list[int], is_coalesced: bool) -> None:
        """Asks the sink for rows of a chunk."""
        job, chosen = chunk.job, np.array(rows, np.int64)
        lengths = chunk.tokenized.lengths[chosen]
        manifest = np.empty((len(rows), 2), np.int64)
        manifest[:, 0], manifest[:, 1] = job.id, chosen + chunk.first_row
        numbers = np.array(entries, np.int64)
        part_of = np.cumsum(lengths, dtype=np.int64) // MAX_TOKENS if self._is_token_level else np.zeros(len(rows))
        cuts = [0, *(np.flatnonzero(np.diff(part_of)) + 1).tolist(), len(rows)]
        for start, stop in pairwise(cuts):
            part, batch_id = slice(start, stop), self._new_batch_id()
            code = job.options.vector_code
            self._send(CachedRows(batch_id, numbers[part], lengths[part], manifest[part], code).command())
            self._fetches[batch_id] = _Fetch([BatchSlice(chunk, chosen[part], lengths[part])], is_coalesced)

    # ---------------------------------------------------------------- batches

    def batch_done(self, batch_id: int) -> None:
        """Records that the sink has the vectors of a batch, and asks it for the coalesced rows."""
        self._unkeyed.pop(batch_id, None)
        batch = self._batches.pop(batch_id, ())
        coalesced: dict[JobChunk, tuple[list[int], list[int]]] = {}
        for key, entry in batch:
            if self._computing.get(key) == entry:
                del self._computing[key]
            if self.is_enabled:
                self._num_misses += 1
                self._cached[key] = entry
                self._key_of[entry] = key
            for chunk, row in self._waiting.pop(entry, ()):
                if not chunk.job.failed:
                    rows, entries = coalesced.setdefault(chunk, ([], []))
                    rows.append(row)
                    entries.append(entry)
        for chunk, (rows, entries) in coalesced.items():
            self._fetch(chunk, rows, entries, is_coalesced=True)

    def batch_failed(self, batch_id: int) -> list[tuple[JobChunk, int]]:
        """Forgets a batch without vectors. Returns chunk and row of each sequence that waited for it."""
        self._unkeyed.pop(batch_id, None)
        waited = []
        for key, entry in self._batches.pop(batch_id, ()):
            if self._computing.get(key) == entry:
                del self._computing[key]
            waited += [(chunk, row) for chunk, row in self._waiting.pop(entry, ()) if not chunk.job.failed]
        return waited

    def fetch_done(self, batch_id: int) -> Slices:
        """Returns the rows that the sink has added from its cache; none if it was not asked for them."""
        fetch = self._fetches.pop(batch_id, None)
        if fetch is None:
            return []
        count = len(fetch.slices[0].rows)
        if fetch.is_coalesced:
            self._num_coalesced += count
        else:
            self._num_hits += count
        return fetch.slices

    def fetch_missed(self, batch_id: int, missing: bytes) -> Slices:
        """Forgets the entries that the sink does not have, int64 ``[n]``. Returns the rows that it was asked for."""
        self._forget(missing)
        fetch = self._fetches.pop(batch_id, None)
        if fetch is None or fetch.slices[0].key.job.failed:
            return []
        if fetch.is_coalesced:  # too large for the memory of the sink: waiting again would fail again
            fetch.slices[0].key.waits_for_equals = False
        return fetch.slices

    def on_update(self, num_bytes: int, dropped: bytes) -> None:
        """Records the memory of the cache, and the entries that the sink has dropped from it: int64 ``[n]``."""
        self.num_bytes = num_bytes
        self._num_evictions += self._forget(dropped)

    def _forget(self, entries: bytes) -> int:
        """Removes entries, int64 ``[n]``. Returns the number of those that were known."""
        count = 0
        for entry in np.frombuffer(entries, np.int64).tolist():
            key = self._key_of.pop(entry, None)
            if key is not None:
                count += 1
                if self._cached.get(key) == entry:
                    del self._cached[key]
        return count


def _is_comparable(chunk: JobChunk) -> bool:
    """Returns whether each sequence has one vector, or those of its tokens.

    Windows have one for each part, and the cache has no other outputs than dense vectors.
    """
    return chunk.tokenized.segments is None and not chunk.job.options.outputs


def _count_rows(each: BatchSlice[JobChunk]) -> int:
    """Returns the number of rows that a slice has in the result of its batch."""
    has_parts = each.key.tokenized.segments is not None
    return len(each.key.segments_of(each.rows)[0]) if has_parts else len(each.rows)


def _choose(each: BatchSlice[JobChunk], indexes: list[int]) -> BatchSlice[JobChunk]:
    return BatchSlice(each.key, each.rows[indexes], each.lengths[indexes])
