"""The number of machines of ``bert-serving-ray``: limits, a long queue, idle machines, and no flapping."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.server.cluster.front_monitor import FrontLoad, read_load
from bert_serving.server.cluster.scaling import RISE_SECONDS, Load, Scaling

#: Tokens that a machine computes in a second, in the simulation.
SPEED = 1000


class Front:
    """Simulates a front with machines of one worker each, in steps of a second."""

    def __init__(self, scaling: Scaling, start_seconds: int) -> None:
        self.scaling, self._start_seconds = scaling, start_seconds
        self.now = 0
        self._waiting = self._computed = 0
        self._starts = [start_seconds] * scaling.wanted

    def run(self, seconds: int, rate: int) -> list[int]:
        """Receives ``rate`` tokens a second. Returns the wanted number after each second."""
        numbers = []
        for _ in range(seconds):
            self.now += 1
            ready = sum(self.now >= start for start in self._starts)
            self._waiting += rate
            done = min(self._waiting, ready * SPEED)
            busy = -(-done // SPEED)
            self._waiting -= done
            self._computed += done
            wanted = self.scaling.observe(Load(self.now, self._waiting, self._computed, busy, ready, ready))
            self._starts = self._starts[:wanted]
            self._starts += [self.now + self._start_seconds] * (wanted - len(self._starts))
            numbers.append(wanted)
        return numbers


@given(
    st.integers(0, 3),
    st.integers(1, 8),
    st.lists(
        st.tuples(
            st.floats(0.1, 20),
            st.integers(0, 10**6),
            st.integers(0, 10**5),
            st.integers(0, 9),
            st.integers(0, 9),
        ),
        max_size=80,
    ),
)
def test_the_number_keeps_its_limits(least: int, more: int, steps: list[tuple[float, int, int, int, int]]) -> None:
    scaling = Scaling(least, least + more, 1, 20)
    at = computed = 0.0
    for pause, waiting, tokens, busy, machines in steps:
        at, computed = at + pause, computed + tokens
        before = scaling.wanted
        wanted = scaling.observe(Load(at, waiting, int(computed), min(busy, machines), machines, machines))
        assert wanted == scaling.wanted
        assert least <= wanted <= min(least + more, max(1, before * 2))


@settings(max_examples=25)
@given(st.integers(0, 2), st.integers(3, 12), st.integers(1, 8), st.integers(1, 30))
def test_a_steady_load_finds_its_number_and_keeps_it(least: int, most: int, load: int, start: int) -> None:
    front = Front(Scaling(least, most, 1, 60), start)
    rate = SPEED * load * 9 // 10
    front.run(2000, rate)
    numbers = front.run(300, rate)
    assert numbers[0] >= min(load, most)  # it is enough
    assert len(set(numbers)) == 1
    front.run(70, 0)
    while front.run(1, 0) != [least]:
        assert front.now < 50_000  # the queue of too small a number is computed first
    assert front.scaling.wanted == least


def test_a_long_queue_doubles_the_number_and_an_idle_minute_ends_it() -> None:
    front = Front(Scaling(1, 8, 1, 60), 10)
    numbers = front.run(90, 20 * SPEED)
    assert sorted(set(numbers)) == [1, 2, 4, 8]
    assert numbers.index(2) >= RISE_SECONDS
    front.run(600, 0)
    assert front.scaling.wanted == 1


def test_a_short_burst_adds_none() -> None:
    front = Front(Scaling(1, 8, 1, 60), 1)
    front.run(60, 100)
    assert set(front.run(1, 4 * SPEED) + front.run(60, 100)) == {1}


def test_without_machines_the_first_text_starts_one() -> None:
    front = Front(Scaling(0, 4, 1, 60), 5)
    assert set(front.run(100, 0)) == {0}
    assert front.run(1, 10) == [1]
    assert front.run(200, 10)[-1] == 1
    assert front.run(200, 0)[-1] == 0


def test_machines_that_start_are_waited_for() -> None:
    front = Front(Scaling(1, 8, 1, 60), 100)
    assert set(front.run(90, 20 * SPEED)) == {1}  # it does not compute yet
    assert max(front.run(90, 20 * SPEED)) == 2


@pytest.mark.parametrize("broken", ["restart", "gap"])
def test_a_front_that_was_away_is_measured_again(broken: str) -> None:
    scaling = Scaling(1, 8, 1, 60)
    for at in range(10):
        scaling.observe(Load(at, 0, at * 100, 1, 1, 1))
    later = 1000 if broken == "gap" else 10
    for at in range(later, later + int(RISE_SECONDS)):
        computed = 1000 if broken == "gap" else 0
        assert scaling.observe(Load(at, 10**6, computed, 1, 1, 1)) == 1
    assert scaling.observe(Load(later + RISE_SECONDS, 10**6, 1000, 1, 1, 1)) == 2


def test_a_status_becomes_a_report() -> None:
    def machine(name: str, workers: int, draining: bool) -> dict[str, object]:
        return {"name": name, "workers": workers, "draining": draining}

    status = {
        "queue": {"tokens": 7},
        "batches": {"tokens": 50},
        "workers": [{"in_flight": 2}, {"in_flight": 0}],
        "joined": {"machines": [machine("a", 1, False), machine("b", 0, False), machine("c", 1, True)]},
    }
    assert read_load(status, 3.0) == FrontLoad(3.0, 7, 50, 1, 2, frozenset("a"))
