"""Holds vectors that may be needed again: those of the cache, and those of the latest batches."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from msgspec.structs import replace

from ..ipc.cached_rows import MAX_POSITIONS, CachedRows, first_entry
from ..ipc.messages import Result

#: Memory of an entry beside its vector in bytes: its places in the tables of the sink and of the ventilator.
ENTRY_BYTES = 384
#: Bytes of the latest results, which are kept without a cache too. Requests that wait for equal texts get them at once.
RECENT_BYTES = 8 * 2**20
#: Memory of a kept result beside its arrays in bytes: objects of Python and of ZeroMQ.
RESULT_BYTES = 1024
_HEADER = sys.getsizeof(b"")


class VectorCache:
    """Keeps the vectors of batches by entry. The least recently used go first. Pure: no sockets, no clock.

    Args:
        max_bytes: memory of the cache; 0: there is none.
        sent_width: returns the dimensions of a vector with a code.
        dtype: that of a vector.
        is_token_level: whether a sequence has one vector per token.
        recent_bytes: memory of the latest results.

    Attributes:
        num_bytes: memory of the cache, with its tables, without the latest results.
    """

    def __init__(
        self,
        max_bytes: int,
        sent_width: Callable[[int], int],
        dtype: str,
        is_token_level: bool,
        recent_bytes: int = RECENT_BYTES,
    ) -> None:
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._sent_width, self._dtype, self._is_token_level = sent_width, np.dtype(dtype), is_token_level
        self._rows: OrderedDict[int, bytes] = OrderedDict()
        self._recent: OrderedDict[int, Result] = OrderedDict()  # by their first entry
        self._recent_bytes, self._max_recent_bytes = 0, recent_bytes

    def __len__(self) -> int:
        """Returns the number of entries of the cache."""
        return len(self._rows)

    def clear(self) -> None:
        """Forgets all vectors: the entries of another ventilator may be equal to the present ones."""
        self._rows.clear()
        self._recent.clear()
        self.num_bytes = self._recent_bytes = 0

    def add(self, result: Result) -> list[int]:
        """Keeps the vectors of a complete batch. Returns the entries that are dropped, or do not fit."""
        first = first_entry(result.batch_id)
        self._add_recent(first, result)
        if not self.max_bytes:
            return []
        dropped = []
        vectors = np.ascontiguousarray(result.array).data.cast("B") if result.array.size else memoryview(b"")
        row_bytes = result.array.shape[1] * self._dtype.itemsize  # that of the widest vector of the batch
        counts = result.lengths.tolist() if self._is_token_level else [1] * len(result.lengths)
        start = 0
        for entry, count in zip(range(first, first + MAX_POSITIONS), counts, strict=False):
            stop = start + count * row_bytes
            size = stop - start + _HEADER + ENTRY_BYTES
            while self._rows and self.num_bytes + size > self.max_bytes:
                dropped.append(self._drop_oldest())
            if size > self.max_bytes:
                dropped.append(entry)
            else:
                self._rows[entry] = bytes(vectors[start:stop])
                self.num_bytes += size
            start = stop
        return dropped

    def missing(self, wanted: CachedRows) -> list[int]:
        """Returns the entries that were dropped."""
        return [
            entry
            for entry in wanted.entries.tolist()
            if entry not in self._rows and entry - entry % MAX_POSITIONS not in self._recent
        ]

    def result(self, wanted: CachedRows) -> Result:
        """Returns the vectors of some entries, of which none is missing, as the result of a batch."""
        rows: list[bytes | memoryview] = []
        for entry in wanted.entries.tolist():
            row = self._rows.get(entry)
            if row is not None:
                self._rows.move_to_end(entry)
            rows.append(self._recent_row(entry) if row is None else row)
        code = wanted.vector_code
        dims = self._sent_width(code)
        if not self._is_token_level:  # a vector beside wider ones of its batch ends in zeros
            rows = [row[: dims * self._dtype.itemsize] for row in rows]
        array = np.frombuffer(rows[0] if len(rows) == 1 else b"".join(rows), self._dtype).reshape(-1, dims)
        codes = np.full(len(rows), code, np.int32).tobytes() if code else b""
        return Result(wanted.batch_id, array, wanted.lengths, wanted.manifest, self._is_token_level, vector_codes=codes)

    def _drop_oldest(self) -> int:
        entry, row = self._rows.popitem(last=False)
        self.num_bytes -= len(row) + _HEADER + ENTRY_BYTES
        return entry

    def _add_recent(self, first: int, result: Result) -> None:
        if result.outputs is not None:  # only dense vectors are asked for again
            result = replace(result, outputs=None)
        self._recent[first] = result
        self._recent_bytes += result.num_bytes + RESULT_BYTES
        while self._recent_bytes > self._max_recent_bytes:
            self._recent_bytes -= self._recent.popitem(last=False)[1].num_bytes + RESULT_BYTES

    def _recent_row(self, entry: int) -> memoryview:
        position = entry % MAX_POSITIONS
        result = self._recent[entry - position]
        rows = slice(position, position + 1)
        if self._is_token_level:
            start = int(result.lengths[:position].sum(dtype=np.int64))
            rows = slice(start, start + int(result.lengths[position]))
        return np.ascontiguousarray(result.array[rows]).data.cast("B")
