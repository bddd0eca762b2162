"""Tests the deduplication of sequences in a batch."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.server.engines.batch import Batch
from bert_serving.server.worker.deduplicate import deduplicate, expand

# Few ids and short sequences, so that many are equal, or differ only in a type or a mask.
tokens = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=3)


def make(sequences: list[list[tuple[int, int, int]]]) -> Batch:
    ids, types, mask = np.array([token for sequence in sequences for token in sequence], np.int32).T
    lengths = np.array([len(sequence) for sequence in sequences], np.int32)
    return Batch(*(np.ascontiguousarray(column) for column in (ids, types, mask)), lengths)


def packed(batch: Batch) -> np.ndarray:
    """Returns a token-level result that identifies each token."""
    return np.stack([batch.input_ids, batch.type_ids, batch.mask], axis=1).astype(np.float32)


def pooled(batch: Batch) -> np.ndarray:
    """Returns a result per sequence that depends on all its tokens and their order."""
    rows = np.split(packed(batch), np.cumsum(batch.lengths)[:-1])
    return np.stack([np.pad(row, ((0, 3 - len(row)), (0, 0)), constant_values=-1).ravel() for row in rows])


@given(st.lists(tokens, min_size=1, max_size=12))
def test_every_copy_gets_the_result_of_its_sequence(sequences: list[list[tuple[int, int, int]]]) -> None:
    batch = make(sequences)
    few, where = deduplicate(batch)
    assert few.num_sequences == len({tuple(sequence) for sequence in sequences})
    assert few.lengths.sum() == few.num_tokens == len(few.type_ids) == len(few.mask)
    if where is None:
        assert few is batch
        return
    for compute, token_level in ((pooled, False), (packed, True)):
        result = expand(compute(few), few, where, token_level)
        assert result.flags.c_contiguous
        np.testing.assert_array_equal(result, compute(batch))


def test_batch_without_duplicates_is_not_copied() -> None:
    batch = make([[(1, 0, 1)], [(1, 0, 1), (2, 0, 1)], [(1, 1, 1)], [(1, 0, 0)]])
    assert deduplicate(batch) == (batch, None)
