"""Tests of the adaptive batch delay, alone and in the dispatcher."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.server.scheduling.batch_delay import (
    DELAY_RATIO,
    MAX_DELAY,
    RETRY_AFTER,
    SMALL_BATCH_TOKENS,
    AdaptiveBatchDelay,
)
from dispatcher_harness import EPOCH, DispatcherHarness

BATCH_SECONDS = 0.02
SOON = DELAY_RATIO * BATCH_SECONDS / 2


def finish_batch(delay: AdaptiveBatchDelay, sequences: int = 4, queued: int = 1, now: float = 100.0) -> None:
    delay.on_batch_done(sequences, queued, BATCH_SECONDS, now)


def test_waits_until_all_answered_clients_return() -> None:
    delay = AdaptiveBatchDelay()
    finish_batch(delay)
    assert delay.should_wait(1, 10, 100.0)
    assert delay.should_wait(4, 40, 100.0 + SOON)
    assert not delay.should_wait(5, 50, 100.0 + SOON)
    assert not delay.should_wait(1, 10, 100.0 + SOON), "the delay is over"


def test_the_delay_is_a_fraction_of_the_last_batch() -> None:
    delay = AdaptiveBatchDelay()
    finish_batch(delay)
    assert delay.deadline == pytest.approx(100.0 + DELAY_RATIO * BATCH_SECONDS)
    assert not delay.should_wait(1, 10, delay.deadline)
    delay.on_batch_done(4, 1, 1000.0, 100.0)
    assert delay.deadline == 100.0 + MAX_DELAY


def test_does_not_wait_with_enough_tokens() -> None:
    delay = AdaptiveBatchDelay()
    finish_batch(delay)
    assert not delay.should_wait(2, SMALL_BATCH_TOKENS, 100.0)


def test_does_not_wait_for_a_single_client() -> None:
    delay = AdaptiveBatchDelay()
    finish_batch(delay, sequences=1, queued=0)
    assert not delay.should_wait(1, 10, 100.0)


def test_does_not_wait_before_the_first_batch() -> None:
    assert not AdaptiveBatchDelay().should_wait(1, 10, 0.0)


def delay_without_arrivals(delay: AdaptiveBatchDelay, now: float) -> bool:
    """Finishes a batch after which no request arrives. Returns whether the worker waited."""
    finish_batch(delay, now=now)
    waits = delay.should_wait(1, 10, now)
    if waits:
        assert not delay.should_wait(1, 10, delay.deadline)
    return waits


def test_stops_waiting_without_arrivals_and_retries() -> None:
    delay = AdaptiveBatchDelay()
    waits = [delay_without_arrivals(delay, 100.0 + number) for number in range(100)]
    assert waits[0]
    assert not all(waits[:5])
    assert 1 < sum(waits[5:]) <= 1 + 95 // RETRY_AFTER
    for number in range(4 * RETRY_AFTER):  # from now on requests arrive
        now = 300.0 + number
        finish_batch(delay, now=now)
        if delay.should_wait(1, 10, now):
            assert not delay.should_wait(5, 50, now + SOON)
    finish_batch(delay, now=500.0)
    assert delay.should_wait(1, 10, 500.0)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 40), st.integers(0, 40), st.floats(0, 2)),
            st.tuples(st.integers(1, 80), st.integers(1, 2000)),
        ),
        max_size=60,
    ),
    st.floats(0, 0.01),
)
def test_never_waits_past_the_deadline(steps: list[tuple[float, ...]], pause: float) -> None:
    delay, now, since = AdaptiveBatchDelay(), 100.0, 0.0
    for step in steps:
        now += pause
        if len(step) == 3:
            delay.on_batch_done(int(step[0]), int(step[1]), step[2], now)
            since = now
        elif delay.should_wait(int(step[0]), int(step[1]), now):
            assert now < delay.deadline <= since + MAX_DELAY
            assert step[1] < SMALL_BATCH_TOKENS


# ---- in the dispatcher ----------------------------------------------------------------------------------------------


def compute_two(harness: DispatcherHarness) -> None:
    """Finishes a batch of two clients while the request of a third one is queued."""
    harness.ask()
    harness.ask()
    message, _ = harness.batch(b"w")
    assert message.batch.num_sequences == 2
    harness.ask()
    harness.now += BATCH_SECONDS
    harness.dispatcher.batch_done(message.id, harness.now - BATCH_SECONDS)


def test_an_idle_worker_waits_for_the_clients_it_answered(harness: DispatcherHarness) -> None:
    harness.add_worker(b"w")
    compute_two(harness)
    dispatcher = harness.dispatcher
    dispatcher.dispatch()
    assert not dispatcher.in_flight
    assert dispatcher.next_wakeup == harness.now + DELAY_RATIO * BATCH_SECONDS
    harness.ask()
    harness.ask()
    assert harness.batch(b"w")[0].batch.num_sequences == 3
    assert dispatcher.next_wakeup is None


def test_a_batch_starts_at_the_deadline_without_absent_clients(harness: DispatcherHarness) -> None:
    harness.add_worker(b"w")
    compute_two(harness)
    harness.dispatcher.dispatch()
    assert harness.dispatcher.next_wakeup is not None
    harness.now = harness.dispatcher.next_wakeup
    assert harness.batch(b"w")[0].batch.num_sequences == 1


def test_a_second_idle_worker_starts_at_once(harness: DispatcherHarness) -> None:
    harness.add_worker(b"w")
    compute_two(harness)
    harness.add_worker(b"other")
    harness.dispatcher.dispatch()
    assert len(harness.dispatcher.in_flight) == 1


def test_the_rest_of_a_large_request_is_not_delayed(harness: DispatcherHarness) -> None:
    harness.add_worker(b"w")
    harness.ask(size=6)  # a batch holds four sequences
    message, _ = harness.batch(b"w")
    harness.now += BATCH_SECONDS
    harness.dispatcher.batch_done(message.id, harness.now - BATCH_SECONDS)
    assert harness.batch(b"w")[0].batch.num_sequences == 2


def test_batch_ids_are_consecutive(harness: DispatcherHarness) -> None:
    harness.add_worker(b"w")
    compute_two(harness)
    harness.now += 1
    assert harness.batch(b"w")[0].id == (EPOCH << 40) + 1
