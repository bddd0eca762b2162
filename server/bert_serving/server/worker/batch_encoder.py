"""Encodes batches: distinct sequences with the engine, then modules and heads, and the parts of windows."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from ..engines.base import Engine, EngineError, EngineSpec
from ..engines.batch import Batch
from ..engines.layout import select_sequences
from ..ipc.messages import BatchMessage
from ..ipc.token_outputs import TokenOutputs
from ..model.pooling import PoolingStrategy
from ..model.token_heads import OUTPUT_BITS
from ..model.vector_options import POOLING_BITS, VectorOptions
from ..tokenization.windows import WHOLE
from .deduplicate import deduplicate, expand
from .sentence_head import SentenceHead
from .token_heads import TokenHeads
from .token_pooling import pool_as

#: The array of a result, the number of tokens of each of its rows or, without head, sequences, and their outputs.
Encoded = tuple[np.ndarray, np.ndarray, TokenOutputs | None]


class BatchEncoder:
    """Encodes the batches of a worker.

    Args:
        engine: the engine.
        head: the modules after it; None with one vector per token.
        spec: that of the engine.
        token_heads: compute the other outputs than dense vectors.
    """

    def __init__(
        self, engine: Engine, head: SentenceHead | None, spec: EngineSpec, token_heads: TokenHeads | None = None
    ) -> None:
        self._engine, self._head, self._gives_tokens = engine, head, spec.is_token_level
        self._token_heads, self._strategy = token_heads, PoolingStrategy[spec.pooling_strategy]
        self._has_dense = token_heads is None or token_heads.has_dense
        self._dtype = np.dtype(spec.output_dtype)

    @property
    def has_token_vectors(self) -> bool:
        """Whether vectors of tokens can be had for single sequences of a batch."""
        return (
            self._head is not None
            and self._has_dense
            and (self._gives_tokens or hasattr(self._engine, "encode_tokens"))
        )

    @property
    def overlaps(self) -> bool:
        """Whether the device computes a batch while the worker prepares the next one."""
        return hasattr(self._engine, "start")

    def start(self, message: BatchMessage) -> Callable[[], Encoded]:
        """Starts a batch. Returns a function that waits for what ``encode`` returns."""
        codes = np.frombuffer(message.vector_codes, np.int32)
        if not self.overlaps or self._needs_tokens(message, codes):
            return partial(self.encode, message)
        batch = message.batch
        few, where = deduplicate(batch)
        return self._waits(self._engine.start(few), batch, few, where, codes)  # type: ignore[attr-defined]

    @property
    def enqueues(self) -> bool:
        """Whether threads of the engine may compute a batch behind another."""
        return hasattr(self._engine, "enqueue")

    def enqueue(self, message: BatchMessage, when_done: Callable[[], None]) -> Callable[[], Encoded] | None:
        """Lets threads of the engine compute a batch, behind those before.

        Args:
            when_done: a thread calls it when the vectors are ready.

        Returns:
            a function that waits for what ``encode`` returns; None if ``start`` should take the batch.
        """
        batch, codes = message.batch, np.frombuffer(message.vector_codes, np.int32)
        if batch.num_sequences == 1 or self._needs_tokens(message, codes):
            return None
        few, where = deduplicate(batch)
        wait: Callable[[], np.ndarray] | None = self._engine.enqueue(few, when_done)  # type: ignore[attr-defined]
        return None if wait is None else self._waits(wait, batch, few, where, codes)

    def _waits(
        self, wait: Callable[[], np.ndarray], batch: Batch, few: Batch, where: np.ndarray | None, codes: np.ndarray
    ) -> Callable[[], Encoded]:
        return lambda: (self._finish(wait(), batch, few, where, codes), batch.lengths, None)

    def _needs_tokens(self, message: BatchMessage, codes: np.ndarray) -> bool:
        """Returns whether rows of a batch are made of vectors of tokens that the engine does not give by itself."""
        return bool(message.segments) or _has_pooling(codes) or self._wants_outputs(codes)

    def encode(self, message: BatchMessage) -> Encoded:
        """Returns the array of a result, the number of tokens of each of its rows or, without head, sequences, and the
        outputs of its rows; None without any.

        Raises:
            EngineError, FloatingPointError: the engine failed, or returned what is no vector.
        """
        codes = np.frombuffer(message.vector_codes, np.int32)
        if message.segments:
            return self._encode_segments(message.batch, np.frombuffer(message.segments, np.int32).reshape(-1, 3), codes)
        array, outputs = self._encode(message.batch, codes)
        return array, message.batch.lengths, outputs

    def _encode(self, batch: Batch, codes: np.ndarray) -> tuple[np.ndarray, TokenOutputs | None]:
        """Returns a row for each sequence, or without head for each token, and the outputs of the sequences."""
        if _has_pooling(codes):
            return self._encode_pooled(batch, codes)
        few, where = deduplicate(batch)
        if self._wants_outputs(codes):
            return self._encode_outputs(batch, few, where, codes)
        return self._finish(self._engine.encode(few), batch, few, where, codes), None

    def _finish(
        self, array: np.ndarray, batch: Batch, few: Batch, where: np.ndarray | None, codes: np.ndarray
    ) -> np.ndarray:
        """Returns the rows of a batch.

        Args:
            array: what the engine returned for ``few``.
            few, where: return values of ``deduplicate``.
        """
        head = self._head
        if head is not None and len(codes):
            array, few, where = head.apply_with_options(array, few, where, codes), batch, None
        elif head is not None:
            array = head.apply(array, few)
        check(array, few.num_tokens if head is None else few.num_sequences)
        return array if where is None else expand(array, few, where, head is None)

    def _wants_outputs(self, codes: np.ndarray) -> bool:
        return self._token_heads is not None and len(codes) > 0 and bool((codes & OUTPUT_BITS).any())

    def _encode_outputs(
        self, batch: Batch, few: Batch, where: np.ndarray | None, codes: np.ndarray
    ) -> tuple[np.ndarray, TokenOutputs | None]:
        """Returns what ``_encode`` returns for a batch in which requests have other outputs than dense vectors.

        One pass gives all outputs: the vectors of texts come from those of the tokens.
        """
        assert self._token_heads is not None
        tokens = self._token_vectors(few)
        outputs = self._token_heads.compute(tokens, few, where, codes)
        if not self._has_dense:
            return np.zeros((batch.num_sequences, 0), self._dtype), outputs
        array = tokens if self._gives_tokens else pool_as(tokens, few, self._strategy)
        return self._finish(array.astype(self._dtype, copy=False), batch, few, where, codes), outputs

    def _encode_pooled(self, batch: Batch, codes: np.ndarray) -> tuple[np.ndarray, TokenOutputs | None]:
        """Returns what ``_encode`` returns for a batch in which requests have a pooling of their own.

        Rows of fewer dimensions than the widest end in zeros, which the sink cuts off.
        """
        pooling = codes & POOLING_BITS
        pooled, others = np.flatnonzero(pooling), np.flatnonzero(pooling == 0)
        few, where = deduplicate(select_sequences(batch, pooled)[0])
        tokens = self._token_vectors(few)
        rows: list[tuple[np.ndarray, np.ndarray]] = []
        for code in np.unique(pooling[pooled]).tolist():
            strategy = VectorOptions.from_code(code).pooling
            assert strategy is not None
            vectors = pool_as(tokens, few, strategy).astype(self._dtype, copy=False)
            check(vectors, few.num_sequences)
            chosen = np.flatnonzero(pooling[pooled] == code)
            rows.append((pooled[chosen], vectors[chosen if where is None else where[chosen]]))
        return self._with_others(rows, batch, codes, others, np.arange(len(codes)))

    def _with_others(
        self,
        rows: list[tuple[np.ndarray, np.ndarray]],
        batch: Batch,
        codes: np.ndarray,
        others: np.ndarray,
        sequences: np.ndarray,
    ) -> tuple[np.ndarray, TokenOutputs | None]:
        """Encodes the other rows of a result, and returns all rows and the outputs.

        Args:
            rows: rows and their places in the result.
            codes: those of all rows.
            others: places of the other rows.
            sequences: the sequence of each row.
        """
        outputs = None
        if len(others):
            chosen, _ = select_sequences(batch, sequences[others])
            array, outputs = self._encode(chosen, codes[others])
            rows.append((others, array))
            if outputs is not None:
                outputs = outputs.spread(len(codes), others)
        return _merge(rows, len(codes)), outputs

    def _token_vectors(self, batch: Batch) -> np.ndarray:
        """Returns the vectors of tokens before pooling, float32 ``[t, d]``."""
        if not self._gives_tokens and not hasattr(self._engine, "encode_tokens"):
            raise EngineError("the engine gives no vectors of tokens beside those of texts")
        encode_tokens = getattr(self._engine, "encode_tokens", None) or self._engine.encode
        tokens: np.ndarray = encode_tokens(batch)
        check(tokens, batch.num_tokens)
        return tokens.astype(np.float32, copy=False)

    def _encode_segments(self, batch: Batch, segments: np.ndarray, codes: np.ndarray) -> Encoded:
        """Encodes a batch with windows, whose parts are the means of their tokens."""
        head = self._head
        if head is None:
            raise EngineError("parts of windows need one vector per text, but the server returns one per token")
        sequences, starts, stops = segments.T
        is_part = stops != WHOLE
        if not is_part.any():  # texts that fit, beside windows that are in other batches
            array, outputs = self._encode(batch, codes)
            return array, batch.lengths, outputs
        windows = np.unique(sequences[is_part])
        chosen, _ = select_sequences(batch, windows)
        tokens = self._token_vectors(chosen)
        offsets = np.cumsum(chosen.lengths, dtype=np.int64) - chosen.lengths
        firsts = offsets[np.searchsorted(windows, sequences[is_part])] + starts[is_part]
        lasts = firsts + stops[is_part] - starts[is_part]
        means = [
            tokens[first:last].mean(0, dtype=np.float32)
            for first, last in zip(firsts.tolist(), np.maximum(lasts, firsts + 1).tolist(), strict=True)
        ]
        rows = self._rows_of_means(head, np.flatnonzero(is_part), np.array(means, np.float32), codes)
        array, outputs = self._with_others(rows, batch, codes, np.flatnonzero(~is_part), sequences)
        return array, np.where(is_part, stops - starts, batch.lengths[sequences]).astype(np.int32), outputs

    def _rows_of_means(
        self, head: SentenceHead, places: np.ndarray, means: np.ndarray, codes: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns the rows of parts and their places in the result."""
        is_pooled = codes[places] & POOLING_BITS != 0
        rows = [(places[is_pooled], means[is_pooled].astype(self._dtype))] if is_pooled.any() else []
        if not is_pooled.all():
            others = places[~is_pooled]
            rows.append((others, head.apply_to_means(means[~is_pooled], codes[others], self._dtype)))
        for _, vectors in rows:
            check(vectors, len(vectors))
        return rows


def _has_pooling(codes: np.ndarray) -> bool:
    """Returns whether a request has a pooling of its own."""
    return len(codes) > 0 and bool((codes & POOLING_BITS).any())


def _merge(rows: list[tuple[np.ndarray, np.ndarray]], count: int) -> np.ndarray:
    """Returns ``[count, d]`` from rows and their places; narrow rows end in zeros."""
    if len(rows) == 1:
        return rows[0][1]
    array = np.zeros((count, max(vectors.shape[1] for _, vectors in rows)), rows[0][1].dtype)
    for places, vectors in rows:
        array[places, : vectors.shape[1]] = vectors
    return array


def check(array: np.ndarray, rows: int) -> None:
    """Checks the array that an engine returned.

    Raises:
        EngineError: the shape is wrong.
        FloatingPointError: a value is not finite.
    """
    if array.ndim != 2 or len(array) != rows:
        raise EngineError(f"the engine returned an array of shape {array.shape} for {rows} rows")
    # The sum is not finite if a value is not: one pass, no temporary array. ``np.sum`` takes longer for one vector.
    if not math.isfinite(np.add.reduce(array, axis=None, dtype=np.float64)):
        raise FloatingPointError("the model gave a value that is not a finite number")
