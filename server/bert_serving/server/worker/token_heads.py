"""Computes sparse vectors and vectors of tokens from the token vectors that an engine returns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..engines.batch import Batch
from ..ipc.token_outputs import TokenOutputs
from ..model.pipeline import SentencePipeline
from ..model.token_heads import MULTI_BIT, SPARSE_BIT, MaskedLmHead
from .sentence_head import ACTIVATE, layer_norm
from .token_head_weights import TokenHeadWeights

#: Most logits that are computed at once: 32 MiB.
_MAX_LOGITS = 1 << 23

#: Token ids, int32 ``[k]``, in increasing order, and their weights, float32 ``[k]``.
_Sparse = tuple[np.ndarray, np.ndarray]


class TokenHeads:
    """The heads of a pipeline that work on token vectors.

    Args:
        pipeline: has the heads.
        weights: their weights.
        dtype: that of the vectors of tokens, by its numpy name.

    Attributes:
        has_dense: whether the pipeline makes dense vectors too.
    """

    def __init__(self, pipeline: SentencePipeline, weights: TokenHeadWeights, dtype: str) -> None:
        self._sparse = None if pipeline.sparse is None else _MaskedLm(pipeline.sparse, _of(weights, "sparse"))
        self._dtype = np.dtype(dtype)
        self.has_dense = pipeline.has_dense

    def compute(
        self, tokens: np.ndarray, few: Batch, where: np.ndarray | None, codes: np.ndarray
    ) -> TokenOutputs | None:
        """Returns the outputs of the sequences of a batch; None if no request wants any.

        Args:
            tokens: token vectors of the distinct sequences, ``[t, d]``.
            few, where: return values of ``deduplicate``.
            codes: int32 ``[n]``, with the bits of outputs of each sequence.

        Raises:
            FloatingPointError: a number is not finite.
        """
        if not (codes & (SPARSE_BIT | MULTI_BIT)).any():
            return None
        size = len(codes)
        distinct = np.arange(size) if where is None else where
        counts = np.zeros((2, size), np.int32)
        sparse: list[_Sparse] = [(np.zeros(0, np.int32), np.zeros(0, np.float32))]
        wanting = np.flatnonzero(codes & SPARSE_BIT)
        if self._sparse is not None and len(wanting):
            chosen, order = np.unique(distinct[wanting], return_inverse=True)
            found = list(self._sparse.compute(_sequences(tokens, few, chosen.tolist())))
            sparse += [found[number] for number in order.tolist()]
            counts[0, wanting] = [len(ids) for ids, _ in sparse[1:]]
        weights = np.concatenate([each for _, each in sparse])
        if not np.isfinite(weights).all():
            raise FloatingPointError("the model gave a sparse weight that is not a finite number")
        return TokenOutputs(
            counts[0], np.concatenate([ids for ids, _ in sparse]), weights, counts[1], np.zeros((0, 0), self._dtype)
        )


def _of(weights: TokenHeadWeights, head: str) -> dict[str, np.ndarray]:
    """Returns the weights of one head."""
    return {
        name.removeprefix(f"{head}/"): np.asarray(weight)
        for name, weight in weights.items()
        if name.startswith(f"{head}/")
    }


def _sequences(tokens: np.ndarray, batch: Batch, chosen: Sequence[int]) -> list[np.ndarray]:
    """Returns the vectors of the tokens of some sequences, without those that are masked."""
    ends = np.cumsum(batch.lengths, dtype=np.int64)
    rows = [slice(int(ends[index] - batch.lengths[index]), int(ends[index])) for index in chosen]
    return [tokens[each][batch.mask[each] > 0] for each in rows]


class _MaskedLm:
    """SPLADE: the logits of a masked language model, their logarithms, and the maximum or the sum over the tokens."""

    def __init__(self, head: MaskedLmHead, weights: dict[str, np.ndarray]) -> None:
        self._head, self._weights = head, weights
        self._max_rows = max(1, _MAX_LOGITS // head.vocab_size)

    def compute(self, sequences: list[np.ndarray]) -> Iterator[_Sparse]:
        """Yields the weights of each sequence; short ones are multiplied with the vocabulary at once."""
        group: list[np.ndarray] = []
        for sequence in sequences:
            if group and sum(map(len, group)) + len(sequence) > self._max_rows:
                yield from self._of_group(group)
                group = []
            group.append(sequence)
        yield from self._of_group(group)

    def _of_group(self, group: list[np.ndarray]) -> Iterator[_Sparse]:
        if len(group) == 1:
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
        """Returns the weights of a sequence, ``[vocabulary]``."""
        # The logarithm keeps the order, so it follows the maximum.
        rows = logits.max(0, keepdims=True) if self._head.strategy == "max" else logits
        values = np.maximum(rows, 0)
        for _ in range(self._head.num_logs):
            values = np.log1p(values)
        return np.asarray(values.sum(0))

    def _select(self, pooled: np.ndarray) -> _Sparse:
        """Returns what is above 0, or not a number; of more than ``max_active`` weights, the largest."""
        ids = np.flatnonzero(~(pooled <= 0))
        limit = self._head.max_active
        if limit is not None and len(ids) > limit:
            ids = np.sort(ids[np.argsort(-pooled[ids], kind="stable")[:limit]])
        return ids.astype(np.int32), pooled[ids].astype(np.float32, copy=False)
