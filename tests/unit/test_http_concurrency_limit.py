"""The gate: places, the queue before them, and closing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from bert_serving.server.http.concurrency_limit import SMALL_PLACES, ConcurrencyLimiter
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

    def __init__(self, gate: ConcurrencyLimiter, is_small: bool = False) -> None:
        super().__init__(daemon=True)
        self.gate, self.is_small, self.error = gate, is_small, None  # type: Exception | None
        self.inside, self.may_leave = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        try:
            with self.gate.place(self.is_small):
                self.inside.set()
                assert self.may_leave.wait(LIMIT)
        except Exception as error:
            self.error = error

    def leave(self) -> None:
        self.may_leave.set()
        self.join(LIMIT)


def queued(gate: ConcurrencyLimiter, count: int, is_small: bool = False) -> list[Guest]:
    guests, before = [], gate.waiting
    for number in range(count):
        guests.append(Guest(gate, is_small))
        wait_until(lambda number=number: gate.waiting == before + number + 1)
    return guests


def inside(gate: ConcurrencyLimiter, count: int, is_small: bool = False) -> list[Guest]:
    guests = [Guest(gate, is_small) for _ in range(count)]
    for guest in guests:
        assert guest.inside.wait(LIMIT)
    return guests


def test_places_go_in_order_of_arrival() -> None:
    gate = ConcurrencyLimiter(limit=2, max_waiting=5, patience=LIMIT)
    first, second = inside(gate, 2)
    waiting = queued(gate, 3)
    for leaving, next_one in zip([first, second, waiting[0]], waiting, strict=True):
        assert not next_one.inside.is_set()
        leaving.leave()
        assert next_one.inside.wait(LIMIT)
        assert gate.running == 2
    for guest in waiting[1:]:
        guest.leave()
    assert (gate.running, gate.waiting) == (0, 0)


def test_one_too_many_is_sent_away_at_once() -> None:
    gate = ConcurrencyLimiter(limit=1, max_waiting=1, patience=LIMIT)
    (running,) = inside(gate, 1)
    (waiting,) = queued(gate, 1)
    started = time.monotonic()
    with pytest.raises(Overloaded, match="-http_max_connect 1"), gate.place():
        pass
    assert time.monotonic() - started < LIMIT / 2
    running.leave()
    waiting.leave()
    assert waiting.error is None


def test_waiting_has_an_end() -> None:
    gate = ConcurrencyLimiter(limit=1, max_waiting=5, patience=0.01)
    (running,) = inside(gate, 1)
    with pytest.raises(Overloaded, match=r"within 0\.01 s"), gate.place():
        pass
    assert (gate.running, gate.waiting) == (1, 0)
    running.leave()
    with gate.place():
        assert gate.running == 1


def test_a_place_is_given_back_after_an_error() -> None:
    gate = ConcurrencyLimiter(limit=1, max_waiting=0, patience=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), gate.place():
            raise ZeroDivisionError
    assert gate.running == 0


def test_closing_sends_away_who_waits_and_lets_finish_who_is_inside() -> None:
    gate = ConcurrencyLimiter(limit=1, max_waiting=5, patience=LIMIT)
    (running,) = inside(gate, 1)
    waiting = queued(gate, 3)
    gate.close()
    for guest in waiting:
        guest.join(LIMIT)
        assert isinstance(guest.error, Stopping)
    assert (gate.running, gate.waiting) == (1, 0)
    with pytest.raises(Stopping), gate.place():
        pass
    running.leave()
    assert running.error is None
    assert gate.running == 0


def test_small_ones_share_a_place() -> None:
    gate = ConcurrencyLimiter(limit=2, max_waiting=5, patience=LIMIT)
    assert gate.most_running == SMALL_PLACES
    (large,) = inside(gate, 1)
    small = inside(gate, SMALL_PLACES // 2, is_small=True)
    (next_large,) = queued(gate, 1)
    (next_small,) = queued(gate, 1, is_small=True)
    small[0].leave()
    # There is room for the small one, but not for the large one that came before it.
    assert not next_small.inside.is_set()
    large.leave()
    for guest in (next_large, next_small):
        assert guest.inside.wait(LIMIT)
        guest.leave()
    for guest in small[1:]:
        guest.leave()
    assert (gate.running, gate.waiting) == (0, 0)


def test_when_a_large_one_gives_up_the_small_ones_behind_it_go_in() -> None:
    gate = ConcurrencyLimiter(limit=1, max_waiting=5, patience=0.5)
    (small,) = inside(gate, 1, is_small=True)
    (large,) = queued(gate, 1)
    gate.patience = LIMIT
    (behind,) = queued(gate, 1, is_small=True)
    large.join(LIMIT)
    assert isinstance(large.error, Overloaded)
    assert behind.inside.wait(LIMIT)
    for guest in (small, behind):
        guest.leave()
    assert (gate.running, gate.waiting) == (0, 0)


def test_with_many_places_small_ones_are_as_all_others() -> None:
    gate = ConcurrencyLimiter(limit=SMALL_PLACES + 1, max_waiting=0, patience=1)
    guests = inside(gate, SMALL_PLACES + 1, is_small=True)
    with pytest.raises(Overloaded), gate.place(is_small=True):
        pass
    for guest in guests:
        guest.leave()


def test_never_more_inside_than_there_are_places() -> None:
    gate = ConcurrencyLimiter(limit=3, max_waiting=100, patience=LIMIT)
    lock, now, most = threading.Lock(), 0, 0

    def visit() -> None:
        nonlocal now, most
        for _ in range(50):
            with gate.place():
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
    assert (gate.running, gate.waiting) == (0, 0)
