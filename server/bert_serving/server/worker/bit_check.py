"""Checks, at the start of a worker with ``-deterministic``, that vectors do not depend on the batch.

The order of sums is that of the libraries, which choose kernels by processor and by shape. So the declaration of an
engine is checked on the processor and with the versions that compute.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..engines.base import Engine, EngineUnavailable
from ..engines.batch import Batch
from .sentence_head import SentenceHead

#: Numbers of tokens of the sequences: some below, at and above the sizes of vector registers and blocks.
LENGTHS = (1, 2, 3, 5, 7, 8, 13, 16, 17, 31, 33, 65, 129, 300)
#: Tokens for each thread of the largest batch, so that each thread computes sequences of its own.
_TOKENS_PER_THREAD = 256


def require_equal_bits(engine: Engine, head: SentenceHead | None, vocab_size: int, longest: int, threads: int) -> None:
    """Compares the vectors of random sequences alone with those in several batches.

    The vectors of tokens are compared too, because requests may have a pooling of their own.

    Args:
        head: what the worker computes of the vectors of the engine; None for vectors of tokens.
        vocab_size: number of token ids.
        longest: maximum number of tokens of a sequence.
        threads: CPU threads of the engine.

    Raises:
        EngineUnavailable: a vector differs; the message names the length of its text and the difference.
    """
    random = np.random.default_rng(0)
    lengths = sorted({min(length, longest) for length in LENGTHS})
    rows = [random.integers(0, vocab_size, length, np.int32) for length in lengths]
    count = len(rows)

    def encode(chosen: Sequence[int]) -> list[np.ndarray]:
        batch = _join([rows[index] for index in chosen])
        array = engine.encode(batch)
        if head is not None:
            return list(head.apply(array, batch))
        return np.split(array, np.cumsum(batch.lengths)[:-1])

    def encode_tokens(chosen: Sequence[int]) -> list[np.ndarray]:
        batch = _join([rows[index] for index in chosen])
        return np.split(engine.encode_tokens(batch), np.cumsum(batch.lengths)[:-1])  # type: ignore[attr-defined]

    ways = [encode, encode_tokens] if head is not None and hasattr(engine, "encode_tokens") else [encode]
    repeats = 1 + _TOKENS_PER_THREAD * max(1, threads) // sum(lengths)
    companies = [[index, (index + 3) % count] for index in range(count)]
    companies += [list(range(count))[::-1], list(range(count)) * repeats]
    for way in ways:
        alone = [way([index])[0] for index in range(count)]
        for chosen in companies:
            for index, found in zip(chosen, way(chosen), strict=True):
                if found.tobytes() != alone[index].tobytes():
                    difference = np.abs(found.astype(np.float64) - alone[index]).max()
                    raise EngineUnavailable(
                        f"-deterministic: a text of {lengths[index]} tokens has another vector among {len(chosen)} "
                        f"texts than alone (difference {difference:.1e}), with this engine on this processor; remove "
                        "-deterministic, or use another processor"
                    )


def _join(rows: Sequence[np.ndarray]) -> Batch:
    ids = np.concatenate(rows)
    lengths = np.array([len(row) for row in rows], np.int32)
    return Batch(ids, np.zeros_like(ids), np.ones_like(ids), lengths)
