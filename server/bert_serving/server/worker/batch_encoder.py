"""Encodes batches: distinct sequences with the engine, then modules and heads, and the parts of windows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from ..engines.base import Engine, EngineError, EngineSpec
from ..engines.batch import Batch
from ..engines.layout import select_sequences
from ..ipc.messages import BatchMessage
from ..ipc.token_outputs import TokenOutputs
from ..tokenization.windows import WHOLE
from .deduplicate import deduplicate, expand
from .sentence_head import SentenceHead
from .token_heads import TokenHeads

#: The array of a result, the number of tokens of each of its rows or, without head, sequences, and their outputs.
Encoded = tuple[np.ndarray, np.ndarray, TokenOutputs | None]


class BatchEncoder:
    """Encodes the batches of a worker.

    Args:
        engine: the engine.
        head: the modules after it; None with one vector per token.
        spec: that of the engine.
        token_heads: compute the other outputs than dense vectors; the engine gives vectors of tokens then.
    """

    def __init__(
        self, engine: Engine, head: SentenceHead | None, spec: EngineSpec, token_heads: TokenHeads | None = None
    ) -> None:
        self._engine, self._head, self._gives_tokens = engine, head, spec.is_token_level
        self._token_heads = token_heads
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
        if message.segments or not self.overlaps:
            return partial(self.encode, message)
        batch = message.batch
        few, where = deduplicate(batch)
        wait: Callable[[], np.ndarray] = self._engine.start(few)  # type: ignore[attr-defined]
        codes = np.frombuffer(message.vector_codes, np.int32)

        def finish() -> Encoded:
            array, outputs = self._finish(wait(), batch, few, where, codes)
            return array, batch.lengths, outputs

        return finish

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
        few, where = deduplicate(batch)
        return self._finish(self._engine.encode(few), batch, few, where, codes)

    def _finish(
        self, array: np.ndarray, batch: Batch, few: Batch, where: np.ndarray | None, codes: np.ndarray
    ) -> tuple[np.ndarray, TokenOutputs | None]:
        """Returns the rows of a batch, and the outputs of its sequences.

        Args:
            array: what the engine returned for ``few``.
            few, where: return values of ``deduplicate``.
        """
        head, outputs = self._head, None
        if self._token_heads is not None and len(codes):
            check(array, few.num_tokens)
            outputs = self._token_heads.compute(array, few, where, codes)
        if not self._has_dense:
            return np.zeros((batch.num_sequences, 0), self._dtype), outputs
        if head is not None and len(codes):
            array, few, where = head.apply_with_options(array, few, where, codes), batch, None
        elif head is not None:
            array = head.apply(array, few)
        check(array, few.num_tokens if head is None else few.num_sequences)
        return array if where is None else expand(array, few, where, head is None), outputs

    def _encode_segments(self, batch: Batch, segments: np.ndarray, codes: np.ndarray) -> Encoded:
        """Encodes a batch with windows, whose parts are the means of their tokens."""
        head = self._head
        if head is None or not self.has_token_vectors:
            raise EngineError(
                "the engine gives no vectors of tokens beside those of texts, which parts of windows need"
            )
        sequences, starts, stops = segments.T
        is_part = stops != WHOLE
        if not is_part.any():  # texts that fit, beside windows that are in other batches
            array, outputs = self._encode(batch, codes)
            return array, batch.lengths, outputs
        windows = np.unique(sequences[is_part])
        chosen, _ = select_sequences(batch, windows)
        tokens = self._engine.encode(chosen) if self._gives_tokens else self._engine.encode_tokens(chosen)  # type: ignore[attr-defined]
        check(tokens, chosen.num_tokens)
        offsets = np.cumsum(chosen.lengths, dtype=np.int64) - chosen.lengths
        firsts = offsets[np.searchsorted(windows, sequences[is_part])] + starts[is_part]
        lasts = firsts + stops[is_part] - starts[is_part]
        means = [
            tokens[first:last].mean(0, dtype=np.float32)
            for first, last in zip(firsts.tolist(), np.maximum(lasts, firsts + 1).tolist(), strict=True)
        ]
        vectors = head.apply_to_means(np.array(means, np.float32), codes[is_part], self._dtype)
        check(vectors, len(means))
        array, outputs = np.empty((len(segments), vectors.shape[1]), vectors.dtype), None
        array[is_part] = vectors
        if not is_part.all():
            others, _ = select_sequences(batch, sequences[~is_part])
            array[~is_part], outputs = self._encode(others, codes[~is_part])
            if outputs is not None:
                outputs = outputs.spread(len(segments), np.flatnonzero(~is_part))
        return array, np.where(is_part, stops - starts, batch.lengths[sequences]).astype(np.int32), outputs


def check(array: np.ndarray, rows: int) -> None:
    """Checks the array that an engine returned.

    Raises:
        EngineError: the shape is wrong.
        FloatingPointError: a value is not finite.
    """
    if array.ndim != 2 or len(array) != rows:
        raise EngineError(f"the engine returned an array of shape {array.shape} for {rows} rows")
    # The sum is not finite if a value is not: one pass, no temporary array.
    if not np.isfinite(np.sum(array, dtype=np.float64)):
        raise FloatingPointError("the model gave a value that is not a finite number")
