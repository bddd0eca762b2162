"""Encodes a batch in several threads, each with sequences of its own.

Threads that share one matrix product wait for the slowest thread after each product. The wait grows if other processes
use the cores. With enough tokens, separate sequences for each thread are faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

from .batch import Batch
from .layout import encode_in_groups, merge_groups, select_groups

Encode = Callable[[Batch], np.ndarray]

#: Maximum ratio of the tokens of two threads. If a partition exceeds it, all threads compute the batch together.
MAX_IMBALANCE = 1.2


class ThreadPool:
    """Threads that each encode a share of a batch.

    Args:
        count: number of threads; a single thread gets no shares.
        min_tokens: minimum number of tokens per thread at which a batch is partitioned.
        initializer: each thread calls it before its first share.
    """

    def __init__(self, count: int, min_tokens: int, initializer: Callable[[], None] | None = None) -> None:
        self._count = count
        self._min_tokens = min_tokens
        self._executor = ThreadPoolExecutor(count, "encode", initializer)

    def partition(self, lengths: np.ndarray) -> list[np.ndarray]:
        """Partitions sequences into one share per thread with similar numbers of tokens, or into a single share.

        Args:
            lengths: number of tokens of each sequence, int ``[n]``.

        Returns:
            indexes into ``lengths``, every index in exactly one share; several shares are sorted by length.
        """
        if self._count > 1 and lengths.sum() >= self._count * self._min_tokens:
            order = np.argsort(lengths, kind="stable")
            shares = [order[start :: self._count] for start in range(self._count)]
            tokens = [int(lengths[share].sum()) for share in shares]
            if max(tokens) <= MAX_IMBALANCE * min(tokens):
                return shares
        return [np.arange(len(lengths))]

    def encode(self, batch: Batch, is_token_level: bool, single_thread: Encode, all_threads: Encode) -> np.ndarray:
        """Returns the vectors of a batch, ``[n, d]``, or ``[t, d]`` if ``is_token_level``.

        Args:
            single_thread: encodes one share; called in each thread of the pool.
            all_threads: encodes a batch that is not partitioned; called in the calling thread.
        """
        shares = self.partition(batch.lengths)
        if len(shares) == 1:
            return all_threads(batch)
        return encode_in_groups(batch, shares, is_token_level, single_thread, self.map)

    def enqueue(
        self, batch: Batch, is_token_level: bool, single_thread: Encode, when_done: Callable[[], None]
    ) -> Callable[[], np.ndarray] | None:
        """Starts to encode a batch behind those before: a thread whose share is done takes one of the next batch.

        Args:
            single_thread: encodes one share.
            when_done: called in a thread of the pool when all shares are done, perhaps several times.

        Returns:
            a function that waits for what ``encode`` returns; None if the batch is not partitioned.
        """
        shares = self.partition(batch.lengths)
        if len(shares) == 1:
            return None
        batches, tokens = select_groups(batch, shares)
        left = [None] * len(shares)

        def on_share(_: Future[np.ndarray]) -> None:
            left.pop()
            if not left:
                when_done()

        futures = [self._executor.submit(single_thread, share) for share in batches]
        for future in futures:
            future.add_done_callback(on_share)
        return lambda: merge_groups(batch, shares, tokens, is_token_level, _results(futures))

    def map(self, encode: Encode, shares: Iterable[Batch]) -> list[np.ndarray]:
        """Returns the vectors of each share after all shares are done; raises the first error of a share."""
        futures = [self._executor.submit(encode, share) for share in shares]
        return _results(futures)

    def close(self) -> None:
        """Stops the threads."""
        self._executor.shutdown(wait=False)


def _results(futures: list[Future[np.ndarray]]) -> list[np.ndarray]:
    """Returns the results after all futures are done; raises the first error."""
    wait(futures)  # memory that a share still holds may be missing for the next batch
    return [future.result() for future in futures]
