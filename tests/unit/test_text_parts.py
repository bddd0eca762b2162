"""Parts of long texts between tokenizer and reply: their rows, their means, and the limits."""

from __future__ import annotations

import json
import logging
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.server.errors import TooManyTexts
from bert_serving.server.ipc import commands
from bert_serving.server.ipc.commands import u64
from bert_serving.server.ipc.messages import Result
from bert_serving.server.scheduling.jobs import Job, JobChunk, JobOptions, RequestKey
from bert_serving.server.sink.assembly import ResultAssembler
from bert_serving.server.sink.finished_vectors import unit_rows
from bert_serving.server.sink.text_parts import average
from bert_serving.server.tokenization.tokenizer import Tokenized
from bert_serving.server.ventilator.result_limit import ResultLimit
from bert_serving.server.ventilator.text_parts import can_start, place_parts
from process_harness import tiny_config

KEY = RequestKey(b"me", b"7", b"")
COUNTS = st.lists(st.integers(1, 5), min_size=1, max_size=8)


def parts_of(counts: list[int], first_text: int = 0) -> np.ndarray:
    """Returns parts of texts, so many of each, int32 ``[n, 4]``."""
    rows = [
        (first_text + text, 10 * number, 10 * number + 9, 1 + (7 * text + 3 * number) % 11)
        for text, count in enumerate(counts)
        for number in range(count)
    ]
    return np.array(rows, np.int32)


def chunk_of(job: Job, counts: list[int], first_text: int = 0) -> JobChunk:
    parts = parts_of(counts, first_text)
    lengths = np.full(len(parts), 3, np.int32)
    ids = np.zeros(3 * len(parts), np.int32)
    return JobChunk(job, first_text, Tokenized(ids, None, None, lengths, np.zeros(0, np.int32), 0, parts))


def wanted(vectors: np.ndarray, parts: np.ndarray, makes_unit: bool) -> np.ndarray:
    means = [
        np.average(vectors[parts[:, 0] == text].astype(np.float64), axis=0, weights=parts[parts[:, 0] == text, 3])
        for text in range(int(parts[-1, 0]) + 1)
    ]
    rows = np.array(means)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) if makes_unit else rows


@given(COUNTS, st.booleans(), st.sampled_from([np.float32, np.float16]), st.integers(0, 2**32 - 1))
def test_means_are_weighted(counts: list[int], makes_unit: bool, dtype: type, seed: int) -> None:
    parts = parts_of(counts)
    vectors = np.random.default_rng(seed).normal(size=(len(parts), 6)).astype(dtype)
    found = average(vectors, parts)
    found = unit_rows(found) if makes_unit else found
    assert found.dtype == dtype
    np.testing.assert_allclose(found, wanted(vectors, parts, makes_unit), atol=1e-5 if dtype is np.float32 else 5e-3)
    if not makes_unit:
        alone = [int(np.flatnonzero(parts[:, 0] == text)[0]) for text, count in enumerate(counts) if count == 1]
        np.testing.assert_array_equal(found[parts[alone, 0]], vectors[alone])


@given(st.lists(COUNTS, min_size=1, max_size=3), st.randoms(use_true_random=False), st.sampled_from(["mean", "chunks"]))
def test_the_reply_does_not_depend_on_the_order_of_rows(pieces: list[list[int]], random: Any, long: str) -> None:
    """Rows arrive in any order, also before their announcement, and some twice, as after the death of a worker."""
    published: list[Any] = []
    assembler = ResultAssembler(
        None,
        lambda _, frames: published.append(frames),
        logging.getLogger("test"),
        lambda: 0.0,
        lambda _, rows, __: rows,
        lambda _: 4,
    )
    first_texts = np.cumsum([0, *map(len, pieces)]).tolist()
    parts = [parts_of(counts, first) for counts, first in zip(pieces, first_texts, strict=False)]
    whole = np.concatenate(parts)
    vectors = np.random.default_rng(1).normal(size=(len(whole), 4)).astype(np.float32)
    first_rows = np.cumsum([0, *map(len, parts)]).tolist()
    events: list[Any] = []
    for (first, _), piece in zip(pairwise(first_rows), parts, strict=True):
        metadata = [] if first != first_rows[-2] else [json.dumps({"long": long}).encode()]
        frames = [u64(1), u64(len(whole)), b"me", b"7", u64(first), b"", piece.tobytes(), *metadata]
        events.append([commands.JOB_CHUNK, *frames])
    for row in range(len(whole)):
        manifest = np.array([[1, row]], np.int64)
        result = Result(1, vectors[row : row + 1], np.array([3], np.int32), manifest, token_level=False)
        events += [result] * (1 + row % 2)
    random.shuffle(events)
    announcements = iter(sorted((each for each in events if isinstance(each, list)), key=lambda each: each[5]))
    events = [next(announcements) if isinstance(each, list) else each for each in events]  # those are in order
    for event in events:
        if isinstance(event, Result):
            assembler.add(event)
        else:
            assembler.announce(event)
    ((info_frame, array, _),) = published
    info = json.loads(info_frame)
    expected = vectors if long == "chunks" else wanted(vectors, whole, makes_unit=False)
    np.testing.assert_allclose(array, expected, atol=1e-5)
    assert info["shape"] == list(array.shape)
    assert info.get("parts") == (whole[:, :3].tolist() if long == "chunks" else None)
    assert assembler.num_bytes == 0


def test_a_job_starts_when_all_its_parts_are_known() -> None:
    job = Job(1, KEY, 5, 0.0, JobOptions(long="mean"))
    assert not can_start(job)
    for first_text, counts, rows in ((0, [2, 1], 3), (2, [4, 1, 1], 9)):
        chunk = chunk_of(job, counts, first_text)
        place_parts(chunk, 9, 27)
        assert chunk.first_row + len(chunk.tokenized.lengths) == job.size == job.missing == rows
        job.chunks.append(chunk)
        assert not can_start(job)
    job.is_complete = True
    assert can_start(job)
    assert chunk.describe(1) == "the part of text 2 from character 10 to 19"
    plain = Job(2, KEY, 5, 0.0)
    plain.chunks.append(JobChunk(plain, 0, chunk.tokenized))
    assert can_start(plain)  # its first texts are computed while the others are tokenized


def test_parts_count_for_the_limits() -> None:
    job = Job(1, KEY, 2, 0.0, JobOptions(long="mean"))
    with pytest.raises(TooManyTexts, match="the texts of one request have 5 parts or more; the limit is 4"):
        place_parts(chunk_of(job, [3, 2]), 4, 100)
    with pytest.raises(TooManyTexts, match="one request have 15 tokens or more; the limit is 14 "):
        place_parts(chunk_of(job, [3, 2]), 5, 14)
    config = tiny_config("-result_memory", "1200")
    limit = ResultLimit(config, config.read_model())
    place_parts(chunk := chunk_of(job, [3, 2]), 10, 15)
    assert limit.check(chunk) == (5 + 2) * (32 * 4 + 16)  # the means beside the vectors of the parts
    job.options = JobOptions(long="chunks")
    assert limit.check(chunk) == 5 * (32 * 4 + 16)
    place_parts(chunk := chunk_of(job, [5, 5]), 10, 30)
    with pytest.raises(TooManyTexts, match="the vectors of 10 parts of texts would take 1440 bytes"):
        limit.check(chunk)
