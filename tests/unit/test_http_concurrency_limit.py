"""Tests the concurrency limiter: slots, queue and closing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from bert_serving.server.http.concurrency_limit import SMALL_REQUEST_SLOTS, ConcurrencyLimiter
from bert_serving.server.http.errors import Overloaded, Stopping

#: Timeout (s) of a wait that normally takes milliseconds; long, because the machine may be busy.
LIMIT = 60


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class RequestThread(threading.Thread):
    """Acquires a slot in a thread and holds it until `finish` is called."""

    def __init__(self, limiter: ConcurrencyLimiter, is_small: bool = False) -> None:
        super().__init__(daemon=True)
        self.limiter, self.is_small, self.error = limiter, is_small, None  # type: Exception | None
        self.has_slot, self.may_finish = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        try:
            with self.limiter.slot(self.is_small):
                self.has_slot.set()
                assert self.may_finish.wait(LIMIT)
        except Exception as error:
            self.error = error

    def finish(self) -> None:
        self.may_finish.set()
        self.join(LIMIT)


def start_queued(limiter: ConcurrencyLimiter, count: int, is_small: bool = False) -> list[RequestThread]:
    requests, before = [], limiter.queued
    for number in range(count):
        requests.append(RequestThread(limiter, is_small))
        wait_until(lambda number=number: limiter.queued == before + number + 1)
    return requests


def start_running(limiter: ConcurrencyLimiter, count: int, is_small: bool = False) -> list[RequestThread]:
    requests = [RequestThread(limiter, is_small) for _ in range(count)]
    for request in requests:
        assert request.has_slot.wait(LIMIT)
    return requests


def test_slots_are_granted_in_order_of_arrival() -> None:
    limiter = ConcurrencyLimiter(limit=2, max_queued=5, queue_timeout=LIMIT)
    first, second = start_running(limiter, 2)
    waiting = start_queued(limiter, 3)
    for finishing, next_one in zip([first, second, waiting[0]], waiting, strict=True):
        assert not next_one.has_slot.is_set()
        finishing.finish()
        assert next_one.has_slot.wait(LIMIT)
        assert limiter.running == 2
    for request in waiting[1:]:
        request.finish()
    assert (limiter.running, limiter.queued) == (0, 0)


def test_request_beyond_queue_limit_is_rejected_immediately() -> None:
    limiter = ConcurrencyLimiter(limit=1, max_queued=1, queue_timeout=LIMIT)
    (running,) = start_running(limiter, 1)
    (waiting,) = start_queued(limiter, 1)
    started = time.monotonic()
    with pytest.raises(Overloaded, match="-http_max_connect 1"), limiter.slot():
        pass
    assert time.monotonic() - started < LIMIT / 2
    running.finish()
    waiting.finish()
    assert waiting.error is None


def test_queued_request_times_out() -> None:
    limiter = ConcurrencyLimiter(limit=1, max_queued=5, queue_timeout=0.01)
    (running,) = start_running(limiter, 1)
    with pytest.raises(Overloaded, match=r"within 0\.01 s"), limiter.slot():
        pass
    assert (limiter.running, limiter.queued) == (1, 0)
    running.finish()
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
    (running,) = start_running(limiter, 1)
    waiting = start_queued(limiter, 3)
    limiter.close()
    for request in waiting:
        request.join(LIMIT)
        assert isinstance(request.error, Stopping)
    assert (limiter.running, limiter.queued) == (1, 0)
    with pytest.raises(Stopping), limiter.slot():
        pass
    running.finish()
    assert running.error is None
    assert limiter.running == 0


def test_small_requests_share_a_slot() -> None:
    limiter = ConcurrencyLimiter(limit=2, max_queued=5, queue_timeout=LIMIT)
    assert limiter.max_running == SMALL_REQUEST_SLOTS
    (large,) = start_running(limiter, 1)
    small = start_running(limiter, SMALL_REQUEST_SLOTS // 2, is_small=True)
    (next_large,) = start_queued(limiter, 1)
    (next_small,) = start_queued(limiter, 1, is_small=True)
    small[0].finish()
    # The free units suffice for the small request, but not for the large one at the head of the queue.
    assert not next_small.has_slot.is_set()
    large.finish()
    for request in (next_large, next_small):
        assert request.has_slot.wait(LIMIT)
        request.finish()
    for request in small[1:]:
        request.finish()
    assert (limiter.running, limiter.queued) == (0, 0)


def test_small_requests_are_admitted_when_a_queued_large_request_times_out() -> None:
    limiter = ConcurrencyLimiter(limit=1, max_queued=5, queue_timeout=0.5)
    (small,) = start_running(limiter, 1, is_small=True)
    (large,) = start_queued(limiter, 1)
    limiter.queue_timeout = LIMIT
    (behind,) = start_queued(limiter, 1, is_small=True)
    large.join(LIMIT)
    assert isinstance(large.error, Overloaded)
    assert behind.has_slot.wait(LIMIT)
    for request in (small, behind):
        request.finish()
    assert (limiter.running, limiter.queued) == (0, 0)


def test_small_requests_need_a_whole_slot_if_there_are_many_slots() -> None:
    limiter = ConcurrencyLimiter(limit=SMALL_REQUEST_SLOTS + 1, max_queued=0, queue_timeout=1)
    requests = start_running(limiter, SMALL_REQUEST_SLOTS + 1, is_small=True)
    with pytest.raises(Overloaded), limiter.slot(is_small=True):
        pass
    for request in requests:
        request.finish()


def test_running_requests_never_exceed_the_limit() -> None:
    limiter = ConcurrencyLimiter(limit=3, max_queued=100, queue_timeout=LIMIT)
    lock, now, most = threading.Lock(), 0, 0

    def hold_slot() -> None:
        nonlocal now, most
        for _ in range(50):
            with limiter.slot():
                with lock:
                    now += 1
                    most = max(most, now)
                time.sleep(0)
                with lock:
                    now -= 1

    threads = [threading.Thread(target=hold_slot, daemon=True) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert most <= 3
    assert (limiter.running, limiter.queued) == (0, 0)
