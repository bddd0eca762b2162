"""Runs the first batches of an engine, and measures how many tokens a batch may have."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from ..engines.base import Device, Engine
from ..engines.batch import Batch

#: Seconds that a full batch takes on a CPU; a small request waits behind it at most so long.
CPU_BATCH_SECONDS = 0.25
#: Limits in tokens of a full batch. At least one sequence of full length, or a few dozen short ones, fit into it.
MIN_TOKENS, MAX_TOKENS = 512, 65536
#: Seconds after which the first batch of a size is as accurate as a second one: what is slower once is a small part.
_ACCURATE_SECONDS = 0.1
#: A batch with a quarter of the sequences is slower by less than this factor for each token. A limit may be too low by
#: this factor if it is near the minimum, because a batch of that size is efficient.
_SMALL_BATCH_FACTOR = 1.5


def warm_up(
    engine: Engine,
    device: Device,
    max_positions: int,
    max_seq_len: int | None,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """Runs first batches, which are slower than later ones. Returns the maximum number of tokens of a batch.

    Args:
        max_positions: maximum number of tokens of a sequence of the model.
        clock: returns seconds.
    """
    length = max(2, min(max_seq_len or 64, max_positions, 64))
    engine.encode(_batch(1, length))
    if device.kind != "cpu":
        engine.encode(_batch(64, length))
        return MAX_TOKENS
    least = max(MIN_TOKENS, max_seq_len or max_positions)

    def measure(sequences: int) -> tuple[float, float]:
        """Returns the tokens of a full batch, and the seconds of the measurement."""
        began = clock()
        engine.encode(_batch(sequences, length))
        seconds = max(clock() - began, 1e-6)
        return sequences * length / seconds * CPU_BATCH_SECONDS, seconds

    sequences = max(16, 4 * device.threads)
    tokens, _ = measure(sequences // 4)
    if tokens > least * _SMALL_BATCH_FACTOR:  # otherwise the limit is near the minimum, whatever a larger batch shows
        tokens, seconds = measure(sequences)
        if seconds < _ACCURATE_SECONDS:
            tokens, _ = measure(sequences)
    return int(min(MAX_TOKENS, max(tokens, least)))


def _batch(sequences: int, length: int) -> Batch:
    tokens = sequences * length
    ones, zeros = np.ones(tokens, np.int32), np.zeros(tokens, np.int32)
    return Batch(zeros, zeros, ones, np.full(sequences, length, np.int32))
