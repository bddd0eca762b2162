"""A small request beside bulk waits for the running batch of a CPU, and the worker never idles."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.server.scheduling.late_bulk import LONG_SECONDS, MIXED_PART
from bert_serving.server.scheduling.scheduler import BatchLimits, Scheduler
from dispatcher_harness import DispatcherHarness

FULL_TOKENS = 1536  # 512 texts of three tokens


class Simulation:
    """Workers whose batches take a time that is proportional to their tokens, within 10 %.

    Attributes:
        waits: seconds from the arrival of each small request until its batch is done.
        sizes: tokens of the batches that are done.
        idle: seconds in which a worker had no batch, after the first ones.
    """

    def __init__(self, workers: int, seconds: float, seed: int, **info: object) -> None:
        self.harness = DispatcherHarness("-max_batch_size", "512")
        for number in range(workers):
            self.harness.add_worker(b"w%d" % number, max_tokens=FULL_TOKENS, **info)
        self.seconds_per_token = seconds / FULL_TOKENS
        self.random = np.random.default_rng(seed)
        self.ends: dict[bytes, tuple[int, float, float]] = {}  # batch, start and end of the running batch
        self.idle_since: dict[bytes, float] = {}
        self.waits: list[float] = []
        self.sizes: list[int] = []
        self.idle = 0.0
        self.arrived: dict[object, float] = {}

    def run(self, until: float) -> None:
        """Runs until a time; the caller adds requests."""
        dispatcher = self.harness.dispatcher
        while True:
            dispatcher.dispatch()
            self._start()
            times = [end for _, _, end in self.ends.values()]
            if dispatcher.next_wakeup is not None:
                assert dispatcher.next_wakeup > self.harness.now
                times.append(dispatcher.next_wakeup)
            if min(times, default=until) >= until:
                self.harness.now = until
                return
            self.harness.now = min(times)
            for name, (number, start, end) in list(self.ends.items()):
                if end <= self.harness.now:
                    self._finish(name, number, start)

    def _start(self) -> None:
        dispatcher = self.harness.dispatcher
        for name, state in dispatcher.workers.items():
            if name not in self.ends and state.in_flight:
                number = next(iter(state.in_flight))
                tokens = dispatcher.in_flight[number].tokens
                seconds = tokens * self.seconds_per_token * self.random.uniform(0.95, 1.05)
                self.ends[name] = number, self.harness.now, self.harness.now + seconds
                self.idle += self.harness.now - self.idle_since.pop(name, self.harness.now)

    def _finish(self, name: bytes, number: int, start: float) -> None:
        dispatcher, now = self.harness.dispatcher, self.harness.now
        batch = dispatcher.in_flight[number]
        del self.ends[name]
        self.sizes.append(batch.tokens)
        for each in batch.slices:
            if each.key.job in self.arrived:
                self.waits.append(now - self.arrived.pop(each.key.job))
        dispatcher.batch_done(number, start)
        if not dispatcher.workers[name].in_flight:
            self.idle_since[name] = now

    def ask(self, size: int) -> None:
        job, _ = self.harness.ask(size)
        if size == 1:
            self.arrived[job] = self.harness.now


@pytest.fixture
def simulations() -> Iterator[list[Simulation]]:
    made: list[Simulation] = []
    yield made
    for each in made:
        each.harness.context.destroy(linger=0)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_small_request_waits_for_one_long_batch_and_no_worker_idles(
    simulations: list[Simulation], workers: int
) -> None:
    full = 0.25
    simulation = Simulation(workers, full, 1)
    simulations.append(simulation)
    simulation.ask(512 * workers * 300)
    simulation.run(101.0)
    simulation.idle = 0.0
    num_done = len(simulation.sizes)
    for _ in range(60):
        simulation.run(simulation.harness.now + simulation.random.uniform(0.1, 0.9))
        simulation.ask(1)
    simulation.run(simulation.harness.now + 2)
    assert len(simulation.waits) == 60
    # Behind a batch that has just been sent; workers finish in turn, so with several of them one is done earlier.
    assert max(simulation.waits) < (1 + 0.2 + MIXED_PART) * 1.05 * full
    assert statistics.median(simulation.waits) < 0.9 * full
    assert simulation.idle == 0
    # Bulk fills the batches of small requests, and all others are full.
    sizes = simulation.sizes[num_done:]
    assert sum(size < MIXED_PART * FULL_TOKENS - 3 for size in sizes) == 0
    assert sum(size < FULL_TOKENS for size in sizes) <= 60


def test_short_batches_and_those_of_a_gpu_are_sent_ahead(simulations: list[Simulation]) -> None:
    for seconds, info in ((0.9 * LONG_SECONDS, {}), (10 * LONG_SECONDS, {"overlaps": True})):
        simulation = Simulation(1, seconds, 1, **info)
        simulations.append(simulation)
        simulation.ask(512 * 100)
        simulation.run(103.0)
        state = simulation.harness.dispatcher.workers[b"w0"]
        assert len(state.in_flight) == state.credits
        assert state.late_bulk.mixed_tokens(FULL_TOKENS) is None


@given(
    st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=8), max_size=8),
    st.lists(st.integers(1, 60), min_size=17, max_size=80),
    st.integers(1, 400),
)
@settings(max_examples=60, deadline=None)
def test_bulk_fills_a_small_batch_up_to_the_limit_only(
    small: list[list[int]], bulk: list[int], mixed_tokens: int
) -> None:
    """Small requests alone may fill the whole batch. Every sequence goes out once."""
    limits = BatchLimits(32, 400)
    scheduler: Scheduler[object] = Scheduler()
    for number, lengths in enumerate(small):
        scheduler.add(("small", number), b"me", np.array(lengths, np.int32), len(lengths))
    scheduler.add("bulk", b"other", np.array(bulk, np.int32), len(bulk))
    num_left = len(bulk) + sum(map(len, small))
    while num_left:
        slices = scheduler.next_batch(limits, mixed_tokens=mixed_tokens)
        lengths = np.concatenate([each.lengths for each in slices])
        num_left -= len(lengths)
        padded = int(lengths.max()) * len(lengths)
        assert padded <= limits.max_tokens
        has_bulk = any(each.key == "bulk" for each in slices)
        if not scheduler.is_bulk and has_bulk:
            assert padded <= mixed_tokens
    assert len(scheduler) == scheduler.num_tokens == 0
