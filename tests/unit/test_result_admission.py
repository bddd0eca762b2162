"""Tests the admission of jobs by the memory of their results."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from bert_serving.server.scheduling.jobs import Job, RequestKey
from bert_serving.server.ventilator.result_admission import (
    HELD_SHARE,
    SINK_DEATHS,
    SMALL_SHARE,
    SMALL_TOTAL_SHARE,
    ResultAdmission,
)

LIMIT = 6400


class AdmissionHarness:
    """An admission with a clock, and the jobs that it started."""

    def __init__(self) -> None:
        self.now = 100.0
        limit: Any = SimpleNamespace(max_bytes=LIMIT)
        self.started: list[Job] = []
        self.freed: list[int] = []
        self.admission = ResultAdmission(limit, self.started.append, self.freed.append, lambda: self.now)
        self._last = 0

    def submit(self, size: int) -> Job:
        self._last += 1
        job = Job(self._last, RequestKey(b"client", b"%d" % self._last, b""), 1, self.now)
        if self.admission.admit(job, size):
            self.started.append(job)
        return job

    def end(self, job: Job) -> None:
        self.started.remove(job)
        self.admission.release(job)
        self.admission.advance()


@pytest.fixture
def harness() -> AdmissionHarness:
    return AdmissionHarness()


def test_jobs_start_in_order_when_their_results_fit(harness: AdmissionHarness) -> None:
    jobs = [harness.submit(2000) for _ in range(10)]
    for number in range(10):
        assert harness.started == jobs[number : number + 3]
        harness.end(jobs[number])
    assert not harness.admission.reserved_bytes


def test_a_later_result_does_not_overtake_a_waiting_one_unless_it_is_small(harness: AdmissionHarness) -> None:
    first, large, later, small = (harness.submit(size) for size in (3000, 6000, 1000, 50))
    assert harness.started == [first, small]
    harness.end(first)
    assert harness.started == [small, large]
    harness.end(large)
    assert harness.started == [small, later]


def test_small_results_do_not_wait_for_clients_that_do_not_read(harness: AdmissionHarness) -> None:
    harness.admission.held_bytes = LIMIT
    small, large = harness.submit(int(SMALL_SHARE * LIMIT)), harness.submit(1000)
    assert harness.started == [small]
    harness.admission.advance()
    harness.admission.advance()
    assert harness.freed == [1000], "the sink is asked once a second"
    harness.now += 1
    harness.admission.advance()
    assert harness.freed == [1000, 1000]
    harness.admission.held_bytes = 0
    harness.admission.advance()
    assert harness.started == [small, large]


def test_the_largest_result_starts_beside_small_ones(harness: AdmissionHarness) -> None:
    small = [harness.submit(50) for _ in range(4)]
    harness.admission.held_bytes = 500
    assert harness.started == [*small, harness.submit(LIMIT)]


def test_a_job_that_grows_keeps_its_place(harness: AdmissionHarness) -> None:
    job = harness.submit(50)
    assert harness.admission.admit(job, 3000)
    assert harness.admission.reserved_bytes == 3000
    waiting = harness.submit(5000)
    assert not harness.admission.admit(waiting, 5500)
    harness.end(job)
    assert harness.started == [waiting]
    assert harness.admission.reserved_bytes == 5500


def test_after_two_ends_of_the_sink_fewer_jobs_start_at_a_time(harness: AdmissionHarness) -> None:
    jobs = [harness.submit(800) for _ in range(16)]
    numbers = []
    for _ in range(SINK_DEATHS + 4):
        numbers.append(len(harness.started))
        harness.started.clear()
        harness.admission.restart(jobs)
        harness.admission.advance()
    assert numbers == [8, 8, 4, 2, 1, 1]
    while jobs:
        assert harness.started, "one job starts at least"
        jobs.remove(harness.started[0])
        harness.end(harness.started[0])
    jobs = [harness.submit(800) for _ in range(16)]
    assert len(harness.started) >= 5, "the limit grows with each success"


def test_any_order_of_events_stays_within_the_limit_and_ends() -> None:
    for seed in range(200):
        rng, harness = random.Random(seed), AdmissionHarness()
        unfinished = set()
        for _ in range(100):
            if rng.random() < 0.5:
                unfinished.add(harness.submit(int(LIMIT * rng.random() ** rng.choice([1, 10]))))
            elif harness.started and rng.random() < 0.9:
                job = rng.choice(harness.started)
                unfinished.remove(job)
                harness.end(job)
            elif unfinished and rng.random() < 0.2:  # a waiting job is cancelled
                job = rng.choice(sorted(unfinished, key=lambda each: each.local_id))
                unfinished.remove(job)
                if job in harness.started:
                    harness.started.remove(job)
                harness.admission.release(job)
                harness.admission.advance()
            else:
                harness.admission.held_bytes = rng.choice([0, LIMIT // 10])
                harness.admission.advance()
            admission = harness.admission
            assert admission.reserved_bytes == sum(job.result_bytes for job in harness.started)
            assert admission.reserved_bytes <= LIMIT * (1 + SMALL_TOTAL_SHARE + HELD_SHARE)
        harness.admission.held_bytes = 0
        harness.admission.advance()
        while unfinished:
            assert harness.started
            unfinished.remove(job := harness.started[0])
            harness.end(job)
        assert not harness.admission.reserved_bytes
