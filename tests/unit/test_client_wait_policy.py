"""How long a caller waits; every time is a number given by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.client._deadline import GRACE, HINT_AFTER, LONGEST_NAP, Patience, Verdict, seconds

TICK = 1 / 1024  # times are multiples of it, so that sums are exact
times = st.integers(0, 2**30).map(lambda ticks: ticks * TICK)
limits = st.none() | times


def test_no_limit_while_connected() -> None:
    patience = Patience(None, 10, now=0)
    assert patience.verdict(1e9, down_since=None) is None


def test_timeout() -> None:
    patience = Patience(2, 10, now=100)
    assert patience.verdict(101.9, None) is None
    assert patience.verdict(102, None) is Verdict.TIMED_OUT
    patience.restart(102)
    assert patience.verdict(103.9, None) is None


def test_the_clock_for_an_absent_server_runs_from_its_loss() -> None:
    patience = Patience(None, 10, now=100)
    assert patience.verdict(109, down_since=99.5) is None
    assert patience.verdict(109.5, down_since=99.5) is Verdict.UNREACHABLE


def test_a_new_call_gives_a_long_absent_server_one_more_chance() -> None:
    patience = Patience(None, 10, now=100)
    assert patience.verdict(100, down_since=0) is None
    assert patience.verdict(100 + GRACE, down_since=0) is Verdict.UNREACHABLE


def test_wait_for_ever() -> None:
    assert Patience(None, None, now=0).verdict(1e9, down_since=0) is None


@given(timeout=limits, connect_timeout=limits, start=times, down=st.none() | times)
def test_napping_ends_at_the_verdict_and_not_before(
    timeout: float | None, connect_timeout: float | None, start: float, down: float | None
) -> None:
    patience = Patience(timeout, connect_timeout, start)
    nap = patience.nap(start, down)
    assert 0 <= nap <= LONGEST_NAP
    if nap > 0:
        assert patience.verdict(start + nap - TICK, down) is None
    if nap < LONGEST_NAP:
        assert patience.verdict(start + nap, down) is not None


def test_one_hint_per_wait() -> None:
    patience = Patience(None, None, now=0)
    assert not patience.hint_due(HINT_AFTER - 1)
    assert patience.hint_due(HINT_AFTER)
    assert not patience.hint_due(HINT_AFTER * 2)


@pytest.mark.parametrize(("milliseconds", "expected"), [(-1, None), (None, None), (0, 0), (1500, 1.5)])
def test_seconds(milliseconds: float | None, expected: float | None) -> None:
    assert seconds(milliseconds) == expected
