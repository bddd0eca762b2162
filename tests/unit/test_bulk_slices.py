"""Tests of bulk beside queries: which worker gets bulk, and how much, while queries arrive."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.server.scheduling.batch_costs import FIXED_PART, QUERY_PART, SHORT_SECONDS, BatchCosts
from bert_serving.server.scheduling.bulk_slices import ACTIVE_SECONDS
from bert_serving.server.scheduling.worker_state import InFlightBatch
from bert_serving.server.shares.job_usage import JobUsage
from bert_serving.server.shares.share import BULK, QUERY, Share
from bert_serving.server.shares.usage import ShareUsage
from dispatcher_harness import DispatcherHarness


@given(
    st.floats(0, 0.01),
    st.floats(1e-6, 1e-3),
    st.integers(8, 200),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_a_batch_of_bulk_takes_half_as_long_as_queries(fixed: float, each: float, query: int, seed: int) -> None:
    """The worker's time is linear in the tokens, with some noise."""
    random = np.random.default_rng(seed)
    costs = BatchCosts()
    assert costs.bulk_tokens() is None
    tokens = 20_000
    seconds = 0.0
    for _ in range(100):
        for size, is_bulk in ((query, False), (tokens, True)):
            seconds = (fixed + each * size) * random.uniform(0.95, 1.05)
            costs.add(size, seconds, is_bulk)
        tokens = costs.bulk_tokens() or 0
        assert tokens >= 1
    allowed = max(QUERY_PART * (fixed + each * query), (1 + FIXED_PART) * fixed, SHORT_SECONDS) + each
    assert fixed + each * tokens <= 1.3 * allowed


SEARCH, ARCHIVE = ShareUsage(Share("search", request_class=QUERY)), ShareUsage(Share("archive", request_class=BULK))


@pytest.fixture
def harness() -> Iterator[DispatcherHarness]:
    found = DispatcherHarness("-http_port", "1", "-http_keys", "keys.toml", "-max_batch_size", "64")
    yield found
    found.context.destroy(linger=0)


def finish(harness: DispatcherHarness) -> InFlightBatch:
    """Finishes the oldest batch, which takes 1 ms and 1 ms for each token, and dispatches further ones."""
    dispatcher = harness.dispatcher
    number, batch = next(iter(dispatcher.in_flight.items()))
    seconds = 0.001 + 0.001 * batch.tokens
    harness.now += seconds
    dispatcher.batch_done(number, harness.now - seconds)
    dispatcher.dispatch()
    return batch


def running(harness: DispatcherHarness) -> list[tuple[int, bool]]:
    """Returns the size of each batch in flight, and whether it is bulk, after a dispatch."""
    harness.dispatcher.dispatch()
    return [(batch.sequences, batch.is_bulk) for batch in harness.dispatcher.in_flight.values()]


def test_one_worker_gets_small_batches_of_bulk_while_queries_arrive(harness: DispatcherHarness) -> None:
    harness.add_worker(b"w")
    harness.ask(6000, usage=JobUsage(ARCHIVE))
    assert running(harness) == [(64, True), (64, True)]  # without queries: full batches, and one waits at the worker
    harness.ask(usage=JobUsage(SEARCH))
    finish(harness)
    assert running(harness) == [(64, True), (1, False)]
    finish(harness)
    for _ in range(60):
        assert sum(is_bulk for _, is_bulk in running(harness)) <= 1  # no bulk waits at the worker
        harness.ask(usage=JobUsage(SEARCH))
        batch = finish(harness)
        assert batch.sequences <= 2
    while running(harness)[0] != (64, True):
        harness.now += ACTIVE_SECONDS + 1
        finish(harness)
    assert running(harness) == [(64, True), (64, True)]


def test_of_several_workers_one_is_free_for_queries(harness: DispatcherHarness) -> None:
    for name in (b"a", b"b", b"c"):
        harness.add_worker(name)
    harness.ask(usage=JobUsage(SEARCH))
    assert running(harness) == [(1, False)]
    finish(harness)
    harness.ask(6000, usage=JobUsage(ARCHIVE))
    assert running(harness) == [(64, True)] * 4  # two batches for each of two workers
    harness.ask(usage=JobUsage(SEARCH))
    assert running(harness) == [*[(64, True)] * 4, (1, False)]
    workers = [batch.worker for batch in harness.dispatcher.in_flight.values()]
    assert workers[-1] not in workers[:-1]
    harness.now += ACTIVE_SECONDS + 1
    finish(harness)
    assert len(running(harness)) == 6


def test_queries_take_no_bulk_along(harness: DispatcherHarness) -> None:
    harness.add_worker(b"w")
    harness.ask(usage=JobUsage(SEARCH))
    running(harness)
    harness.ask(60, usage=JobUsage(ARCHIVE))
    harness.ask(usage=JobUsage(SEARCH))
    finish(harness)
    assert running(harness)[0] == (1, False)
