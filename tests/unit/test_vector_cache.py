"""Tests the keys of sequences, and the memory that the cache of vectors counts."""

from __future__ import annotations

import tracemalloc
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from bert_serving.server.ipc.cached_rows import CachedRows, first_entry
from bert_serving.server.ipc.messages import Command, Result
from bert_serving.server.ipc.token_outputs import TokenOutputs
from bert_serving.server.scheduling.cache_index import CacheIndex
from bert_serving.server.scheduling.jobs import NO_OPTIONS, Job, JobChunk, RequestKey
from bert_serving.server.scheduling.scheduler import BatchSlice
from bert_serving.server.scheduling.sequence_keys import SequenceKeys
from bert_serving.server.sink.vector_cache import ENTRY_BYTES, RESULT_BYTES, VectorCache
from bert_serving.server.tokenization.tokenizer import Tokenized
from process_harness import tiny_config

KEYS = SequenceKeys("space")
#: One text: ids, types and mask of each token.
TEXT = st.lists(st.tuples(st.sampled_from([0, 1, 2, 256, 65536]), st.integers(0, 1), st.integers(0, 1)), min_size=1)


def make_chunk(texts: list[list[tuple[int, int, int]]], code: int = 0, is_short: bool = True) -> JobChunk:
    """Returns a chunk of a request. A short one has no types that are all 0, and no mask that is all 1."""
    ids, types, mask = np.array([token for text in texts for token in text], np.int32).T
    lengths = np.array(list(map(len, texts)), np.int32)
    job = Job(1, RequestKey(b"me", b"1", b""), len(texts), 0.0, replace(NO_OPTIONS, vector_code=code), id=1)
    kept_types = types if types.any() or not is_short else None
    kept_mask = mask if not mask.all() or not is_short else None
    return JobChunk(job, 0, Tokenized(ids.copy(), kept_types, kept_mask, lengths, np.zeros(0, np.int32), 0))


@given(st.lists(TEXT, min_size=1, max_size=6), st.lists(TEXT, min_size=1, max_size=6), st.integers(0, 1), st.booleans())
def test_keys_are_equal_if_texts_and_options_are(
    first: list[Any], second: list[Any], code: int, is_short: bool
) -> None:
    second = [*second, *first]
    keys = KEYS.of(make_chunk(first), range(len(first)))
    others = KEYS.of(make_chunk(second, code, is_short), range(len(second)))
    for text, key in zip(first, keys, strict=True):
        for other, its_key in zip(second, others, strict=True):
            assert (key == its_key) == (text == other and not code)


def test_keys_of_another_space_and_of_another_process_differ() -> None:
    chunk = make_chunk([[(1, 0, 1)]])
    assert len({keys.of(chunk, [0])[0] for keys in (KEYS, SequenceKeys("space"), SequenceKeys("other"))}) == 3


def make_result(number: int, array: np.ndarray, lengths: list[int], is_token_level: bool = False) -> Result:
    manifest = np.zeros((len(lengths), 2), np.int64)
    return Result(7 << 40 | number, array, np.array(lengths, np.int32), manifest, is_token_level)


def wanted_of(*entries: int, lengths: tuple[int, ...] = ()) -> CachedRows:
    lengths = lengths or (1,) * len(entries)
    manifest = np.zeros((len(entries), 2), np.int64)
    wanted = CachedRows(1, np.array(entries, np.int64), np.array(lengths, np.int32), manifest, 0)
    return CachedRows.from_command(wanted.command())


def ask(cache: VectorCache, *entries: int, lengths: tuple[int, ...] = ()) -> np.ndarray | None:
    """Returns the vectors of entries, or None if one is missing."""
    wanted = wanted_of(*entries, lengths=lengths)
    return None if cache.missing(wanted) else cache.result(wanted).array


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_least_recently_used_vectors_go(dtype: str) -> None:
    rows = np.arange(12, dtype=dtype).reshape(4, 3)
    probe = VectorCache(2**20, lambda _: 3, dtype, False)
    probe.add(make_result(0, rows[:1], [5]))
    cache = VectorCache(3 * probe.num_bytes, lambda _: 3, dtype, False, recent_bytes=0)
    first = first_entry(1)
    assert cache.add(make_result(1, rows[:3], [5, 6, 7])) == []
    np.testing.assert_array_equal(ask(cache, first), rows[:1])
    assert cache.add(make_result(2, rows[3:], [5])) == [first + 1]
    np.testing.assert_array_equal(ask(cache, first_entry(2), first + 2, first), rows[[3, 2, 0]])
    assert ask(cache, first, first + 1) is None
    assert cache.num_bytes == cache.max_bytes
    assert len(cache) == 3
    cache.clear()
    assert (len(cache), cache.num_bytes) == (0, 0)


def test_vectors_of_tokens_and_those_that_do_not_fit() -> None:
    tokens = np.arange(40, dtype=np.float32).reshape(10, 4)
    cache = VectorCache(2 * (ENTRY_BYTES + 33) + 8 * 16, lambda _: 4, "float32", True, recent_bytes=0)
    first = first_entry(1)
    dropped = cache.add(make_result(1, tokens, [2, 3, 5], True))
    assert dropped == [first]  # two of three fit
    np.testing.assert_array_equal(ask(cache, first + 2, first + 1, lengths=(5, 3)), tokens[[*range(5, 10), 2, 3, 4]])
    huge = np.zeros((1000, 4), np.float32)
    assert cache.add(make_result(2, huge, [1000], True)) == [first + 2, first + 1, first_entry(2)]
    assert (len(cache), cache.num_bytes) == (0, 0)


def test_the_latest_results_are_kept_without_a_cache() -> None:
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    results = make_result(1, rows[:2], [1, 1]), make_result(2, rows[2:], [1, 1])
    sizes = [each.num_bytes + RESULT_BYTES for each in results]
    cache = VectorCache(0, lambda _: 2, "float32", False, recent_bytes=sum(sizes))
    assert list(map(cache.add, results)) == [[], []]
    np.testing.assert_array_equal(ask(cache, first_entry(1) + 1, first_entry(2)), rows[[1, 2]])
    cache.add(make_result(3, rows[:1], [1]))
    assert ask(cache, first_entry(1)) is None
    assert cache.num_bytes == len(cache) == 0


@pytest.mark.parametrize("width", [0, 4])  # without dense vectors, and with them
def test_the_latest_results_take_no_more_memory_than_they_may(width: int) -> None:
    """Vectors of tokens are hundreds of times as large as the dense ones, and are not kept."""
    counts, none, nothing = np.full(4, 50, np.int32), np.zeros(4, np.int32), np.zeros(0, np.int32)
    cache = VectorCache(0, lambda _: width, "float32", False, recent_bytes=2**20)
    kept = []
    for batch_id in range(1, 2000):
        multi = np.zeros((200, 64), np.float32)
        kept.append(weakref.ref(multi))
        outputs = TokenOutputs(none, nothing, nothing.astype(np.float32), counts, multi)
        result = make_result(batch_id, np.zeros((4, width), np.float32), [50] * 4)
        cache.add(structs.replace(result, announcements=b"a" * 500, outputs=outputs))
    del multi, outputs, result
    assert not any(each() is not None for each in kept)
    held = [each for each in range(1, 2000) if not cache.missing(wanted_of(first_entry(each)))]
    assert 0 < len(held) < 2**20 / (500 + RESULT_BYTES)
    assert held[-1] == 1999


def test_equal_texts_whose_vector_the_sink_cannot_keep_are_computed_together() -> None:
    """As the vectors of tokens of a long text. The worker computes equal texts of one batch once."""
    sent: list[Command] = []
    numbers = iter(range(100, 200))
    index = CacheIndex(tiny_config("-cache_mb", "1"), sent.append, lambda: next(numbers))
    chunk = make_chunk(5 * [[(1, 0, 1)]])
    whole = BatchSlice(chunk, np.arange(5), chunk.tokenized.lengths)
    known, left = index.take_known([whole], 1)
    assert [each.rows.tolist() for each in left] == [[0]]
    index.serve(known)
    index.batch_done(1)
    (command,) = sent
    wanted = CachedRows.from_command(command)
    assert wanted.manifest[:, 1].tolist() == [1, 2, 3, 4]
    (missed,) = index.fetch_missed(wanted.batch_id, wanted.entries.tobytes())
    known, rows = index.find(chunk, missed.rows)
    assert not known
    known, left = index.take_known([BatchSlice(chunk, rows, missed.lengths)], 2)
    assert not known
    assert [each.rows.tolist() for each in left] == [[1, 2, 3, 4]]
    index.batch_done(2)
    assert index.to_dict()["entries"] == 1


@pytest.mark.parametrize("cache_mb", ["0", "1"])
def test_windows_are_not_compared_and_texts_behind_them_have_their_own_rows(cache_mb: str) -> None:
    """A window has a row for each of its parts, so it moves the rows of the batch that follow."""
    sent: list[Command] = []
    numbers = iter(range(100, 200))
    index = CacheIndex(tiny_config("-cache_mb", cache_mb), sent.append, lambda: next(numbers))
    windows, texts = make_chunk([[(1, 0, 1)], [(2, 0, 1)]]), make_chunk([[(3, 0, 1)], [(1, 0, 1)]])
    parts = np.array([[0, 0, 1], [0, 1, 2], [0, 2, 3], [1, 0, 1]], np.int32)
    windows.tokenized = structs.replace(windows.tokenized, segments=parts, parts=np.zeros((4, 4), np.int32))
    rows = np.arange(2)
    batch = [BatchSlice(windows, rows, windows.tokenized.lengths), BatchSlice(texts, rows, texts.tokenized.lengths)]
    known, left = index.take_known(batch, 1)
    assert (bool(known), len(left)) == (False, 2)
    again = make_chunk([[(1, 0, 1)], [(3, 0, 1)]])
    for chunk, count in ((windows, 0), (again, 2)):
        known, others = index.find(chunk, rows)
        assert len(others) == 2 - count
        index.serve(known)
    index.batch_done(1)
    (command,) = sent
    wanted = CachedRows.from_command(command)
    found = dict(zip(wanted.manifest[:, 1].tolist(), (wanted.entries - first_entry(1)).tolist(), strict=True))
    assert found == {0: 5, 1: 4}  # behind four parts


def test_counted_memory_is_what_both_processes_hold() -> None:
    """The tables of the ventilator are measured, too."""
    dims, size, count = 64, 250, 44  # the tables have just grown, so they are as large as they can be for an entry
    sent: list[Command] = []
    numbers = iter(range(1, 10**6))
    index = CacheIndex(tiny_config("-cache_mb", "1000"), sent.append, lambda: next(numbers))
    cache = VectorCache(2**30, lambda _: dims, "float32", False, recent_bytes=0)
    chunk = make_chunk([[(number, 0, 1)] for number in range(size * count)])
    lengths = chunk.tokenized.lengths
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(1, count + 1):
            rows = np.arange(size * (number - 1), size * number)
            batch_id = 7 << 40 | number
            known, left = index.take_known([BatchSlice(chunk, rows, lengths[rows])], batch_id)
            assert not known
            assert len(left) == 1
            cache.add(make_result(number, np.zeros((size, dims), np.float32), [1] * size))
            index.batch_done(batch_id)
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert index.to_dict()["entries"] == len(cache) == size * count
    assert 0.85 * cache.num_bytes < held < 1.02 * cache.num_bytes
