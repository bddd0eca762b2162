"""Waits policy with simulated time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.client._deadline import GRACE, POLL_INTERVAL, WARN_AFTER, Expiry, WaitPolicy, seconds

TICK = 1 / 1024  # times are multiples of it, so that sums are exact
times = st.integers(0, 2**30).map(lambda ticks: ticks * TICK)
limits = st.none() | times


def test_no_limit_while_connected() -> None:
    policy = WaitPolicy(None, 10, now=0)
    assert policy.expiry(1e9, down_since=None) is None


def test_timeout() -> None:
    policy = WaitPolicy(2, 10, now=100)
    assert policy.expiry(101.9, None) is None
    assert policy.expiry(102, None) is Expiry.TIMED_OUT
    policy.restart(102)
    assert policy.expiry(103.9, None) is None


def test_connect_timeout_starts_at_the_loss_of_the_connection() -> None:
    policy = WaitPolicy(None, 10, now=100)
    assert policy.expiry(109, down_since=99.5) is None
    assert policy.expiry(109.5, down_since=99.5) is Expiry.UNREACHABLE


def test_new_call_waits_for_the_grace_period() -> None:
    policy = WaitPolicy(None, 10, now=100)
    assert policy.expiry(100, down_since=0) is None
    assert policy.expiry(100 + GRACE, down_since=0) is Expiry.UNREACHABLE


def test_no_limits() -> None:
    assert WaitPolicy(None, None, now=0).expiry(1e9, down_since=0) is None


@given(timeout=limits, connect_timeout=limits, start=times, down=st.none() | times)
def test_next_check_is_at_the_expiry(
    timeout: float | None, connect_timeout: float | None, start: float, down: float | None
) -> None:
    policy = WaitPolicy(timeout, connect_timeout, start)
    delay = policy.next_check_in(start, down)
    assert 0 <= delay <= POLL_INTERVAL
    if delay > 0:
        assert policy.expiry(start + delay - TICK, down) is None
    if delay < POLL_INTERVAL:
        assert policy.expiry(start + delay, down) is not None


def test_one_warning_per_wait() -> None:
    policy = WaitPolicy(None, None, now=0)
    assert not policy.should_warn(WARN_AFTER - 1)
    assert policy.should_warn(WARN_AFTER)
    assert not policy.should_warn(WARN_AFTER * 2)


@pytest.mark.parametrize(("milliseconds", "expected"), [(-1, None), (None, None), (0, 0), (1500, 1.5)])
def test_seconds(milliseconds: float | None, expected: float | None) -> None:
    assert seconds(milliseconds) == expected
