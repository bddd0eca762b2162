"""Whether an idle worker waits for more sequences: the rules alone, and in the dispatcher."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batches import EPOCH, Batches
from bert_serving.server.scheduling.batch_delay import FEW_TOKENS, PATIENCE, SECONDS, SHARE, AdaptiveBatchDelay

TOOK = 0.02
SOON = SHARE * TOOK / 2


def answered(gathering: AdaptiveBatchDelay, sequences: int = 4, waiting: int = 1, now: float = 100.0) -> None:
    gathering.answered(sequences, waiting, TOOK, now)


def test_it_waits_until_all_have_come_back() -> None:
    gathering = AdaptiveBatchDelay()
    answered(gathering)
    assert gathering.goes_on(1, 10, 100.0)
    assert gathering.goes_on(4, 40, 100.0 + SOON)
    assert not gathering.goes_on(5, 50, 100.0 + SOON)
    assert not gathering.goes_on(1, 10, 100.0 + SOON), "it has begun"


def test_it_waits_for_a_share_of_what_the_last_batch_took() -> None:
    gathering = AdaptiveBatchDelay()
    answered(gathering)
    assert gathering.until == pytest.approx(100.0 + SHARE * TOOK)
    assert not gathering.goes_on(1, 10, gathering.until)
    gathering.answered(4, 1, 1000.0, 100.0)
    assert gathering.until == 100.0 + SECONDS


def test_it_does_not_wait_when_there_is_enough() -> None:
    gathering = AdaptiveBatchDelay()
    answered(gathering)
    assert not gathering.goes_on(2, FEW_TOKENS, 100.0)


def test_nobody_waits_for_a_single_client() -> None:
    gathering = AdaptiveBatchDelay()
    answered(gathering, sequences=1, waiting=0)
    assert not gathering.goes_on(1, 10, 100.0)


def test_before_the_first_batch_it_does_not_wait() -> None:
    assert not AdaptiveBatchDelay().goes_on(1, 10, 0.0)


def wait_in_vain(gathering: AdaptiveBatchDelay, now: float) -> bool:
    """A chance at which nobody comes; whether it waited."""
    answered(gathering, now=now)
    waits = gathering.goes_on(1, 10, now)
    if waits:
        assert not gathering.goes_on(1, 10, gathering.until)
    return waits


def test_it_learns_that_waiting_is_in_vain_and_tries_anew_now_and_then() -> None:
    gathering = AdaptiveBatchDelay()
    waits = [wait_in_vain(gathering, 100.0 + number) for number in range(100)]
    assert waits[0]
    assert not all(waits[:5])
    assert 1 < sum(waits[5:]) <= 1 + 95 // PATIENCE
    for number in range(4 * PATIENCE):  # from now on they come
        now = 300.0 + number
        answered(gathering, now=now)
        if gathering.goes_on(1, 10, now):
            assert not gathering.goes_on(5, 50, now + SOON)
    answered(gathering, now=500.0)
    assert gathering.goes_on(1, 10, 500.0)


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
def test_it_never_waits_longer_than_it_says(steps: list[tuple[float, ...]], pause: float) -> None:
    gathering, now, since = AdaptiveBatchDelay(), 100.0, 0.0
    for step in steps:
        now += pause
        if len(step) == 3:
            gathering.answered(int(step[0]), int(step[1]), step[2], now)
            since = now
        elif gathering.goes_on(int(step[0]), int(step[1]), now):
            assert now < gathering.until <= since + SECONDS
            assert step[1] < FEW_TOKENS


# ---- in the dispatcher ----------------------------------------------------------------------------------------------


def compute_two(batches: Batches) -> None:
    """A worker is done with the requests of two clients, and a third one's waits."""
    batches.ask()
    batches.ask()
    message, _ = batches.batch(b"w")
    assert message.batch.num_sequences == 2
    batches.ask()
    batches.now += TOOK
    batches.dispatcher.done(message.id, batches.now - TOOK)


def test_an_idle_worker_waits_for_those_it_has_answered(batches: Batches) -> None:
    batches.hire(b"w")
    compute_two(batches)
    dispatcher = batches.dispatcher
    dispatcher.dispatch()
    assert not dispatcher.flights
    assert dispatcher.again_at == batches.now + SHARE * TOOK
    batches.ask()
    batches.ask()
    assert batches.batch(b"w")[0].batch.num_sequences == 3
    assert dispatcher.again_at is None


def test_it_begins_without_those_who_do_not_come(batches: Batches) -> None:
    batches.hire(b"w")
    compute_two(batches)
    batches.dispatcher.dispatch()
    assert batches.dispatcher.again_at is not None
    batches.now = batches.dispatcher.again_at
    assert batches.batch(b"w")[0].batch.num_sequences == 1


def test_another_idle_worker_begins(batches: Batches) -> None:
    batches.hire(b"w")
    compute_two(batches)
    batches.hire(b"other")
    batches.dispatcher.dispatch()
    assert len(batches.dispatcher.flights) == 1


def test_the_rest_of_a_large_request_is_not_waited_for(batches: Batches) -> None:
    batches.hire(b"w")
    batches.ask(size=6)  # four sequences fit in a batch
    message, _ = batches.batch(b"w")
    batches.now += TOOK
    batches.dispatcher.done(message.id, batches.now - TOOK)
    assert batches.batch(b"w")[0].batch.num_sequences == 2


def test_numbers_of_batches_go_on(batches: Batches) -> None:
    batches.hire(b"w")
    compute_two(batches)
    batches.now += 1
    assert batches.batch(b"w")[0].id == (EPOCH << 40) + 1
