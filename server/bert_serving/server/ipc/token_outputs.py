"""Holds sparse vectors and vectors of tokens of some texts, packed: a text has any number of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class TokenOutputs:
    """The outputs of ``n`` texts beside their dense vectors.

    Attributes:
        sparse_counts: number of weights of each text, int32 ``[n]``.
        sparse_ids, sparse_weights: token ids, int32 ``[s]``, and their weights, float32 ``[s]``.
        multi_counts: number of vectors of each text, int32 ``[n]``.
        multi: ``[m, d]``, float32 or float16.
    """

    sparse_counts: np.ndarray
    sparse_ids: np.ndarray
    sparse_weights: np.ndarray
    multi_counts: np.ndarray
    multi: np.ndarray

    @property
    def arrays(self) -> list[np.ndarray]:
        """All arrays, as messages hold them."""
        return [self.sparse_counts, self.sparse_ids, self.sparse_weights, self.multi_counts, self.multi]

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    def take(self, rows: np.ndarray) -> TokenOutputs:
        """Returns the outputs of some texts by their numbers, int64 ``[k]``, in this order."""
        sparse, multi = _places(self.sparse_counts, rows), _places(self.multi_counts, rows)
        return TokenOutputs(
            self.sparse_counts[rows],
            self.sparse_ids[sparse],
            self.sparse_weights[sparse],
            self.multi_counts[rows],
            self.multi[multi],
        )

    def spread(self, size: int, rows: np.ndarray) -> TokenOutputs:
        """Returns the outputs of ``size`` texts: ``rows``, in increasing order, have these, and the others none."""
        counts = np.zeros((2, size), np.int32)
        counts[0, rows], counts[1, rows] = self.sparse_counts, self.multi_counts
        return TokenOutputs(counts[0], self.sparse_ids, self.sparse_weights, counts[1], self.multi)

    def problem(self, num_texts: int, vocab_size: int, dims: int, dtype: np.dtype[Any]) -> str:
        """Returns what is wrong with the outputs that a worker sent, or an empty string."""
        for counts, values in ((self.sparse_counts, self.sparse_ids), (self.multi_counts, self.multi)):
            if len(counts) != num_texts or (counts < 0).any() or counts.sum(dtype=np.int64) != len(values):
                return f"the worker sent {len(counts)} counts for {num_texts} texts and {len(values)} values"
        if len(self.sparse_weights) != len(self.sparse_ids):
            return f"the worker sent {len(self.sparse_weights)} weights of {len(self.sparse_ids)} tokens"
        if len(self.sparse_ids) and not 0 <= self.sparse_ids.min() <= self.sparse_ids.max() < vocab_size:
            return f"the worker sent token ids outside the vocabulary of {vocab_size} tokens"
        if self.multi.shape[1] != dims or self.multi.dtype != dtype:
            return f"the worker sent vectors of {self.multi.shape[1]} {self.multi.dtype}, not {dims} {dtype}"
        return ""


def concatenate(parts: Sequence[TokenOutputs]) -> TokenOutputs:
    """Returns the outputs of all texts of the parts, in their order."""
    if len(parts) == 1:
        return parts[0]
    return TokenOutputs(*(np.concatenate(arrays) for arrays in zip(*(part.arrays for part in parts), strict=True)))


def _places(counts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns the places of the values of some texts, int64."""
    stops = np.cumsum(counts, dtype=np.int64)
    sizes = counts[rows].astype(np.int64)
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    places: np.ndarray = np.arange(total) + np.repeat(stops[rows] - ends, sizes)
    return places
