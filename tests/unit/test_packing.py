"""Packing of batches: those of single texts, and the general case, have the same arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.server.scheduling.jobs import Job, JobChunk, JobOptions, PackedBatch, RequestKey, pack
from bert_serving.server.scheduling.scheduler import BatchSlice
from bert_serving.server.tokenization.tokenizer import Tokenized

#: Length of a text, whether it has types and a mask, its vector code, and its first row.
TEXT = st.tuples(st.integers(1, 6), st.booleans(), st.booleans(), st.integers(0, 3), st.integers(0, 9))


def chunk_of(number: int, text: tuple[int, bool, bool, int, int], others: int) -> JobChunk:
    """Returns a chunk with the text, and ``others`` texts of one token behind it."""
    length, has_types, has_mask, code, first_row = text
    total = length + others
    job = Job(number, RequestKey(b"", b"", b""), 1, 0.0, JobOptions(vector_code=code), id=1000 + number)
    lengths = np.array([length] + [1] * others, np.int32)
    tokenized = Tokenized(
        np.arange(10 * number, 10 * number + total, dtype=np.int32),
        np.arange(total, dtype=np.int32) % 2 if has_types else None,
        np.arange(total, dtype=np.int32) % 3 if has_mask else None,
        lengths,
        np.zeros(0, np.int32),
        0,
    )
    return JobChunk(job, first_row, tokenized)


def packed(texts: list[tuple[int, bool, bool, int, int]], others: int) -> PackedBatch:
    chunks = [chunk_of(number, text, others) for number, text in enumerate(texts)]
    return pack([BatchSlice(chunk, np.zeros(1, np.int64), chunk.tokenized.lengths[:1]) for chunk in chunks])


@given(st.lists(TEXT, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_single_texts_have_the_arrays_of_the_general_case(texts: list[tuple[int, bool, bool, int, int]]) -> None:
    fast, general = packed(texts, others=0), packed(texts, others=2)
    assert (fast.has_types, fast.has_mask) == (general.has_types, general.has_mask)
    assert fast.vector_codes == general.vector_codes
    pairs = [(fast.manifest, general.manifest)]
    names = ("input_ids", "type_ids", "mask", "lengths")
    pairs += [(getattr(fast.batch, name), getattr(general.batch, name)) for name in names]
    for one, other in pairs:
        assert one.dtype == other.dtype
        assert one.flags.c_contiguous
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("others", [0, 1])
def test_one_text(others: int) -> None:
    batch = packed([(3, False, False, 2, 5)], others)
    assert batch.manifest.tolist() == [[1000, 5]]
    assert np.frombuffer(batch.vector_codes, np.int32).tolist() == [2]
