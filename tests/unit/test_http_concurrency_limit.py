"""The limiter: places, the queue before them, and closing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from bert_serving.server.http.concurrency_limit import SMALL_REQUEST_SLOTS, ConcurrencyLimiter
from bert_serving.server.http.errors import Overloaded, Stopping

#: Seconds after which a wait for something that takes a moment has failed; long, because a machine may be busy.
LIMIT = 60


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Guest(threading.Thread):
    """Asks for a place, and stays until told to leave."""

    def __init__(self, limiter: ConcurrencyLimiter, is_small: bool = False) -> None:
        super().__init__(daemon=True)
        self.limiter, self.is_small, self.error = limiter, is_small, None  # type: Exception | None
        self.inside, self.may_leave = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        try:
            with self.limiter.slot(self.is_small):
                self.inside.set()
                assert self.may_leave.wait(LIMIT)
        except Exception as error:
            self.error = error

    def leave(self) -> None:
        self.may_leave.set()
        self.join(LIMIT)


def queued(limiter: ConcurrencyLimiter, count: int, is_small: bool = False) -> list[Guest]:
    guests, before = [], limiter.queued
    for number in range(count):
        guests.append(Guest(limiter, is_small))
        wait_until(lambda number=number: limiter.queued == before + number + 1)
    return guests


def inside(limiter: ConcurrencyLimiter, count: int, is_small: bool = False) -> list[Guest]:
    guests = [Guest(limiter, is_small) for _ in range(count)]
    for guest in guests:
        assert guest.inside.wait(LIMIT)
    return guests


def test_slots_are_granted_in_order_of_arrival() -> None:
    limiter = ConcurrencyLimiter(limit=2, max_queued=5, queue_timeout=LIMIT)
    first, second = inside(limiter, 2)
    waiting = queued(limiter, 3)
    for leaving, next_one in zip([first, second, waiting[0]], waiting, strict=True):
        assert not next_one.inside.is_set()
        leaving.leave()
        assert next_one.inside.wait(LIMIT)
        assert limiter.running == 2
    for guest in waiting[1:]:
        guest.leave()
    assert (limiter.running, limiter.queued) == (0, 0)


def test_request_beyond_queue_limit_is_rejected_immediately() -> None:
    limiter = ConcurrencyLimiter(limit=1, max_queued=1, queue_timeout=LIMIT)
    (running,) = inside(limiter, 1)
    (waiting,) = queued(limiter, 1)
    started = time.monotonic()
    with pytest.raises(Overloaded, match="-http_max_connect 1"), limiter.slot():
        pass
    assert time.monotonic() - started < LIMIT / 2
    running.leave()
    waiting.leave()
    assert waiting.error is None


def test_queued_request_times_out() -> None:
    limiter = ConcurrencyLimiter(limit=1, max_queued=5, queue_timeout=0.01)
    (running,) = inside(limiter, 1)
    with pytest.raises(Overloaded, match=r"within 0\.01 s"), limiter.slot():
        pass
    assert (limiter.running, limiter.queued) == (1, 0)
    running.leave()
    with limiter.slot():
        assert limiter.running == 1


def test_slot_is_released_after_an_error() -> None:
    limiter = ConcurrencyLimiter(limit=1, max_queued=0, queue_timeout=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), limiter.slot():
            raise ZeroDivisionError
    assert limiter.running == 0


def test_close_rejects_queued_requests_and_running_ones_finish() -> None:
    limiter = ConcurrencyLimiter(limit=1, max_queued=5, queue_timeout=LIMIT)
    (running,) = inside(limiter, 1)
    waiting = queued(limiter, 3)
    limiter.close()
    for guest in waiting:
        guest.join(LIMIT)
        assert isinstance(guest.error, Stopping)
    assert (limiter.running, limiter.queued) == (1, 0)
    with pytest.raises(Stopping), limiter.slot():
        pass
    running.leave()
    assert running.error is None
    assert limiter.running == 0


def test_small_requests_share_a_slot() -> None:
    limiter = ConcurrencyLimiter(limit=2, max_queued=5, queue_timeout=LIMIT)
    assert limiter.max_running == SMALL_REQUEST_SLOTS
    (large,) = inside(limiter, 1)
    small = inside(limiter, SMALL_REQUEST_SLOTS // 2, is_small=True)
    (next_large,) = queued(limiter, 1)
    (next_small,) = queued(limiter, 1, is_small=True)
    small[0].leave()
    # There is room for the small one, but not for the large one that came before it.
    assert not next_small.inside.is_set()
    large.leave()
    for guest in (next_large, next_small):
        assert guest.inside.wait(LIMIT)
        guest.leave()
    for guest in small[1:]:
        guest.leave()
    assert (limiter.running, limiter.queued) == (0, 0)


def test_small_requests_are_admitted_when_a_queued_large_request_times_out() -> None:
    limiter = ConcurrencyLimiter(limit=1, max_queued=5, queue_timeout=0.5)
    (small,) = inside(limiter, 1, is_small=True)
    (large,) = queued(limiter, 1)
    limiter.queue_timeout = LIMIT
    (behind,) = queued(limiter, 1, is_small=True)
    large.join(LIMIT)
    assert isinstance(large.error, Overloaded)
    assert behind.inside.wait(LIMIT)
    for guest in (small, behind):
        guest.leave()
    assert (limiter.running, limiter.queued) == (0, 0)


def test_small_requests_need_a_whole_slot_if_there_are_many_slots() -> None:
    limiter = ConcurrencyLimiter(limit=SMALL_REQUEST_SLOTS + 1, max_queued=0, queue_timeout=1)
    guests = inside(limiter, SMALL_REQUEST_SLOTS + 1, is_small=True)
    with pytest.raises(Overloaded), limiter.slot(is_small=True):
        pass
    for guest in guests:
        guest.leave()


def test_running_requests_never_exceed_the_limit() -> None:
    limiter = ConcurrencyLimiter(limit=3, max_queued=100, queue_timeout=LIMIT)
    lock, now, most = threading.Lock(), 0, 0

    def visit() -> None:
        nonlocal now, most
        for _ in range(50):
            with limiter.slot():
                with lock:
                    now += 1
                    most = max(most, now)
                time.sleep(0)
                with lock:
                    now -= 1

    threads = [threading.Thread(target=visit, daemon=True) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert most <= 3
    assert (limiter.running, limiter.queued) == (0, 0)
