"""Tests the partition of a batch and the errors of threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.server.engines.base import OutOfMemory
from bert_serving.server.engines.batch import Batch
from bert_serving.server.engines.thread_pool import MAX_IMBALANCE, ThreadPool


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    made = ThreadPool(3, 192)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("lengths", "count"),
    [
        ([64] * 100, 3),
        ([*[5] * 300, 64, 64], 3),
        ([30] * 25 + [40], 3),
        ([64] * 3, 1),  # too few tokens
        ([5], 1),
        ([64] * 13, 1),  # 5, 4 and 4 sequences: too uneven
        ([500, 500], 1),  # the third share is empty
    ],
)
def test_partition_is_even_or_a_single_share(pool: ThreadPool, lengths: list[int], count: int) -> None:
    assert len(pool.partition(np.array(lengths))) == count


@given(st.lists(st.integers(1, 512), min_size=1, max_size=200), st.integers(2, 8), st.integers(1, 300))
def test_every_sequence_is_in_one_share(lengths: list[int], count: int, min_tokens: int) -> None:
    array = np.array(lengths)
    shares = ThreadPool(count, min_tokens).partition(array)
    assert sorted(np.concatenate(shares).tolist()) == list(range(len(lengths)))
    if len(shares) > 1:
        tokens = [array[share].sum() for share in shares]
        assert len(shares) == count
        assert sum(tokens) >= count * min_tokens
        assert max(tokens) <= MAX_IMBALANCE * min(tokens)


def test_error_of_a_share_is_raised_after_all_are_done(pool: ThreadPool) -> None:
    done = threading.Event()

    def encode(batch: Batch) -> np.ndarray:
        if batch.num_tokens == 1:
            raise OutOfMemory("too much")
        time.sleep(0.2)
        done.set()
        return np.zeros((batch.num_sequences, 1))

    short, long = (Batch(*np.zeros((3, n), np.int32), np.array([n], np.int32)) for n in (1, 2))
    with pytest.raises(OutOfMemory, match="too much"):
        pool.map(encode, [short, long])
    assert done.is_set()
    assert [len(vectors) for vectors in pool.map(encode, [long, long])] == [1, 1]


def test_initializer_runs_in_each_thread() -> None:
    local = threading.local()
    pool = ThreadPool(2, 1, lambda: setattr(local, "is_ready", True))
    batch = Batch(*np.zeros((3, 1), np.int32), np.ones(1, np.int32))
    assert all(pool.map(lambda _: local.is_ready, [batch] * 4))
    pool.close()
    with pytest.raises(RuntimeError):
        pool.map(lambda _: local.is_ready, [batch])
