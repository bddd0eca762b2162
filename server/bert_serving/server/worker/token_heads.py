"""Computes sparse vectors and vectors of tokens from the token vectors that an engine returns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..engines.batch import Batch
from ..ipc.token_outputs import TokenOutputs
from ..model.pipeline import SentencePipeline
from ..model.token_heads import MULTI_BIT, QUERY_BIT, SPARSE_BIT, LexicalHead, MaskedLmHead, MultiHead
from ..model.unit_vectors import normalize
from .masked_lm import MaskedLm, Sparse
from .sentence_head import ACTIVATE
from .token_head_weights import TokenHeadWeights


class Sequence(NamedTuple):
    """The tokens of a text, without masked ones if it is no query.

    Attributes:
        ids: int32 ``[t]``.
        vectors: float32 ``[t, d]``.
        is_first: whether a token is the first of the text, bool ``[t]``.
        is_query: whether the text is a query.
    """

    ids: np.ndarray
    vectors: np.ndarray
    is_first: np.ndarray
    is_query: bool


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
        self._sparse: MaskedLm | _Lexical | None = None
        if isinstance(pipeline.sparse, MaskedLmHead):
            self._sparse = MaskedLm(pipeline.sparse, _of(weights, "sparse"))
        elif isinstance(pipeline.sparse, LexicalHead):
            self._sparse = _Lexical(pipeline.sparse, _of(weights, "sparse"))
        self._multi = None if pipeline.multi is None else _Multi(pipeline.multi, _of(weights, "multi"))
        self._dims = 0 if pipeline.multi is None else pipeline.multi.dims
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
        sparse: list[Sparse] = [(np.zeros(0, np.int32), np.zeros(0, np.float32))]
        multi = [np.zeros((0, self._dims), self._dtype)]
        if self._sparse is not None and len(wanting := np.flatnonzero(codes & SPARSE_BIT)):
            chosen, order = np.unique(distinct[wanting], return_inverse=True)
            found = list(self._sparse.compute(_sequences(tokens, few, chosen, np.zeros(len(chosen), bool))))
            sparse += [found[number] for number in order.tolist()]
            counts[0, wanting] = [len(ids) for ids, _ in sparse[1:]]
        if self._multi is not None and len(wanting := np.flatnonzero(codes & MULTI_BIT)):
            # Equal tokens of a query and of a document have other vectors left out.
            is_query = (codes[wanting] & QUERY_BIT) > 0
            pairs, order = np.unique(2 * distinct[wanting] + is_query, return_inverse=True)
            vectors = self._multi.compute(_sequences(tokens, few, pairs // 2, pairs % 2 > 0))
            multi += [vectors[number].astype(self._dtype, copy=False) for number in order.tolist()]
            counts[1, wanting] = [len(rows) for rows in multi[1:]]
        weights, rows = np.concatenate([each for _, each in sparse]), np.concatenate(multi)
        if not (np.isfinite(weights).all() and np.isfinite(rows).all()):
            raise FloatingPointError("a head of the model gave a value that is not a finite number")
        return TokenOutputs(counts[0], np.concatenate([ids for ids, _ in sparse]), weights, counts[1], rows)


def _of(weights: TokenHeadWeights, head: str) -> dict[str, np.ndarray]:
    """Returns the weights of one head."""
    own = {name.partition("/")[2]: weight for name, weight in weights.items() if name.startswith(f"{head}/")}
    return {name: np.asarray(weight) for name, weight in own.items()}


def _sequences(tokens: np.ndarray, batch: Batch, chosen: np.ndarray, is_query: np.ndarray) -> Iterator[Sequence]:
    """Yields some sequences of a batch.

    Args:
        is_query: whether they are queries, whose masked tokens count: they expand the query.
    """
    ends = np.cumsum(batch.lengths, dtype=np.int64)
    for index, keeps_all in zip(chosen.tolist(), is_query.tolist(), strict=True):
        rows = slice(int(ends[index] - batch.lengths[index]), int(ends[index]))
        seen = np.arange(batch.lengths[index]) if keeps_all else np.flatnonzero(batch.mask[rows])
        yield Sequence(batch.input_ids[rows][seen], tokens[rows][seen], seen == 0, keeps_all)


class _Lexical:
    """The weight of each token of a text, as in BGE-M3."""

    def __init__(self, head: LexicalHead, weights: dict[str, np.ndarray]) -> None:
        self._weight, self._bias = weights["weight"], weights["bias"]
        self._unused = np.array(head.unused_ids, np.int32)

    def compute(self, sequences: Iterator[Sequence]) -> Iterator[Sparse]:
        """Yields the weights of each sequence."""
        for sequence in sequences:
            # A sum for each token, so that equal tokens of any batch have equal weights.
            weights = np.maximum(np.einsum("td,d->t", sequence.vectors, self._weight[0]) + self._bias[0], 0)
            is_used = ~(weights <= 0) & ~np.isin(sequence.ids, self._unused)
            ids, places = np.unique(sequence.ids[is_used], return_inverse=True)
            largest = np.zeros(len(ids), np.float32)
            np.maximum.at(largest, places, weights[is_used])
            yield ids.astype(np.int32), largest


class _Multi:
    """The vector of each token of a text."""

    def __init__(self, head: MultiHead, weights: dict[str, np.ndarray]) -> None:
        self._head, self._weights = head, weights

    def compute(self, sequences: Iterator[Sequence]) -> list[np.ndarray]:
        """Returns the vectors of each sequence, float32 ``[t, dims]``."""
        kept = [self._kept(sequence) for sequence in sequences]
        rows = np.concatenate(kept)
        for number, activation in enumerate(self._head.activations):
            rows = rows @ self._weights[f"{number}/weight"].T
            if (bias := self._weights.get(f"{number}/bias")) is not None:
                rows = rows + bias
            rows = ACTIVATE[activation](rows)
        if self._head.is_normalized:
            rows = normalize(rows)
        return np.split(rows, np.cumsum([len(each) for each in kept])[:-1])

    def _kept(self, sequence: Sequence) -> np.ndarray:
        head = self._head
        if head.skips_first:
            return np.asarray(sequence.vectors[~sequence.is_first])
        skips = head.skips_queries if sequence.is_query else head.skips_documents
        if not skips or not head.skip_ids:
            return sequence.vectors
        return np.asarray(sequence.vectors[~np.isin(sequence.ids, head.skip_ids)])
