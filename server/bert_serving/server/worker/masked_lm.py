"""Computes the sparse vectors of SPLADE with the head of a masked language model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np

from ..model.token_heads import MaskedLmHead
from .sentence_head import ACTIVATE, layer_norm

#: Most logits that are computed at once: 32 MiB.
_MAX_LOGITS = 1 << 23

#: Token ids, int32 ``[k]``, in increasing order, and their weights, float32 ``[k]``.
Sparse = tuple[np.ndarray, np.ndarray]


class HasVectors(Protocol):
    """A text with the vectors of its tokens, float32 ``[t, d]``."""

    @property
    def vectors(self) -> np.ndarray: ...


class MaskedLm:
    """SPLADE: the logits of a masked language model, their logarithms, and the maximum or the sum over the tokens."""

    def __init__(self, head: MaskedLmHead, weights: dict[str, np.ndarray]) -> None:
        self._head, self._weights = head, weights
        self._max_rows = max(1, _MAX_LOGITS // head.vocab_size)

    def compute(self, sequences: Iterable[HasVectors]) -> Iterator[Sparse]:
        """Yields the weights of each sequence; short ones are multiplied with the vocabulary at once."""
        group: list[np.ndarray] = []
        for sequence in (each.vectors for each in sequences):
            if group and sum(map(len, group)) + len(sequence) > self._max_rows:
                yield from self._of_group(group)
                group = []
            group.append(sequence)
        yield from self._of_group(group)

    def _of_group(self, group: list[np.ndarray]) -> Iterator[Sparse]:
        if len(group) == 1 and len(group[0]):
            blocks = [group[0][start : start + self._max_rows] for start in range(0, len(group[0]), self._max_rows)]
            pooled = self._pool(self._logits(blocks[0]))
            for block in blocks[1:]:
                others = self._pool(self._logits(block))
                pooled = np.maximum(pooled, others) if self._head.strategy == "max" else pooled + others
            yield self._select(pooled)
            return
        logits, start = self._logits(np.concatenate(group)), 0
        for sequence in group:
            yield self._select(self._pool(logits[start : start + len(sequence)]))
            start += len(sequence)

    def _logits(self, rows: np.ndarray) -> np.ndarray:
        """Returns the logits of tokens, ``[t, vocabulary]``."""
        weights = self._weights
        dense = rows.astype(np.float32, copy=False) @ weights["dense"].T
        if (bias := weights.get("dense_bias")) is not None:
            dense += bias
        normed = layer_norm(
            weights["norm"], weights.get("norm_bias"), self._head.eps, ACTIVATE[self._head.activation](dense)
        )
        logits = normed @ weights["decoder"].T
        if (bias := weights.get("bias")) is not None:
            logits += bias
        return np.asarray(logits)

    def _pool(self, logits: np.ndarray) -> np.ndarray:
        """Returns the weights of a sequence, ``[vocabulary]``; zeros if all its tokens are masked."""
        if not len(logits):
            return np.zeros(self._head.vocab_size, np.float32)
        # The logarithm keeps the order, so it follows the maximum.
        rows = logits.max(0, keepdims=True) if self._head.strategy == "max" else logits
        values = np.maximum(rows, 0)
        for _ in range(self._head.num_logs):
            values = np.log1p(values)
        return np.asarray(values.sum(0))

    def _select(self, pooled: np.ndarray) -> Sparse:
        """Returns what is above 0, or not a number; of more than ``max_active`` weights, the largest."""
        ids = np.flatnonzero(~(pooled <= 0))
        limit = self._head.max_active
        if limit is not None and len(ids) > limit:
            ids = np.sort(ids[np.argsort(-pooled[ids], kind="stable")[:limit]])
        return ids.astype(np.int32), pooled[ids].astype(np.float32, copy=False)
