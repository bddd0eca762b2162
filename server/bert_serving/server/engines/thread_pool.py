"""Threads that each compute sequences of their own, where that is faster than all of them at one product.

Threads that share a product wait for each other after it, and for the slowest where other programs want their cores
too. With enough to do they get further apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from .batch import Batch
from .layout import encode_in_groups

Encode = Callable[[Batch], np.ndarray]

#: How much more one thread may have to do than another, as a factor; where sequences do not part that evenly, all
#: threads compute together.
MAX_IMBALANCE = 1.2


class ThreadPool:
    """
    Args:
        count: number of threads; with one, nothing is shared out.
        min_tokens: tokens for each thread from which on they compute apart.
        initializer: is called by each thread before it begins.
    """

    def __init__(self, count: int, min_tokens: int, initializer: Callable[[], None] | None = None) -> None:
        self._count = count
        self._min_tokens = min_tokens
        self._executor = ThreadPoolExecutor(count, "encode", initializer)

    def partition(self, lengths: np.ndarray) -> list[np.ndarray]:
        """Sequences for each thread, about as many tokens for each; or all in one share, to be computed together.

        Args:
            lengths: tokens in each sequence, int ``[n]``.

        Returns:
            indexes into ``lengths``, every index in exactly one share; within a share from short to long.
        """
        if self._count > 1 and lengths.sum() >= self._count * self._min_tokens:
            order = np.argsort(lengths, kind="stable")
            shares = [order[start :: self._count] for start in range(self._count)]
            tokens = [int(lengths[share].sum()) for share in shares]
            if max(tokens) <= MAX_IMBALANCE * min(tokens):
                return shares
        return [np.arange(len(lengths))]

    def encode(self, batch: Batch, is_token_level: bool, single_thread: Encode, all_threads: Encode) -> np.ndarray:
        """Vectors of a batch, ``[n, d]``, or ``[t, d]`` if ``is_token_level``.

        Args:
            single_thread: encodes a share, in each of the threads.
            all_threads: encodes a batch that is not shared out, in the thread that calls this.
        """
        shares = self.partition(batch.lengths)
        if len(shares) == 1:
            return all_threads(batch)
        return encode_in_groups(batch, shares, is_token_level, single_thread, self.map)

    def map(self, encode: Encode, shares: Iterable[Batch]) -> list[np.ndarray]:
        """Vectors of each share; all are done when this returns, or raises what one of them has raised."""
        futures = [self._executor.submit(encode, share) for share in shares]
        wait(futures)  # what a share still holds might be what the next batch lacks
        return [future.result() for future in futures]

    def close(self) -> None:
        """Ends the threads."""
        self._executor.shutdown(wait=False)
