"""Starts jobs while the memory of results has room for their vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..scheduling.jobs import Job
from .result_limit import ResultLimit

#: Part of ``-result_memory`` up to which a result is small, and part that small results may take beside large ones.
SMALL_SHARE, SMALL_TOTAL_SHARE = 1 / 64, 1 / 16
#: Part of ``-result_memory`` that finished results may take while the largest possible result is computed.
HELD_SHARE = 1 / 4
#: Consecutive ends of the sink from which fewer jobs start at a time, and the part of the limit that each success adds.
SINK_DEATHS, GROWTH = 2, 1 / 16
#: Seconds between two requests to the sink to free memory.
FREE_INTERVAL = 1.0


class ResultAdmission:
    """Reserves memory for the results of jobs. Pure: no sockets.

    The sink allocates the array of a job when its first rows arrive. So a job starts when its array fits into the limit
    beside those of all started jobs and the finished results in the sink. Jobs wait in order of arrival. Small results
    have a share of their own, so that short requests do not wait for clients that do not read.

    Args:
        limit: the limit of one result, which is that of all.
        start: called with each job that waited and starts.
        free_results: called with the bytes that the first waiting job needs, if finished results take memory.
        clock: monotonic seconds.

    Attributes:
        max_bytes: value of ``-result_memory``.
        held_bytes: finished results that the sink holds, by its last report.
        waiting: jobs that have not started, in order of arrival.
    """

    def __init__(
        self,
        limit: ResultLimit,
        start: Callable[[Job], None],
        free_results: Callable[[int], None],
        clock: Callable[[], float],
    ) -> None:
        self.limit, self.max_bytes = limit, limit.max_bytes
        self._start, self._free_results, self._clock = start, free_results, clock
        self.held_bytes = 0
        self.waiting: dict[Job, None] = {}
        self._reserved: dict[Job, int] = {}
        self._num_small_bytes = self._num_large_bytes = 0
        self._start_limit = float(limit.max_bytes)
        self._num_deaths = 0
        self._next_free = 0.0

    @property
    def reserved_bytes(self) -> int:
        """Memory of the results of all started jobs."""
        return self._num_small_bytes + self._num_large_bytes

    def admit(self, job: Job, size: int) -> bool:
        """Returns whether a job has started, and starts it if its result of ``size`` bytes fits.

        Call it for each chunk: the size may grow. A job that waits is started by :meth:`advance`.
        """
        job.result_bytes = max(job.result_bytes, size)
        if job in self._reserved:
            self._reserve(job)
            return True
        if job not in self.waiting and (self._is_small(size) or not self.waiting) and self._fits(size):
            self._reserve(job)
            return True
        self.waiting[job] = None
        return False

    def has_started(self, job: Job) -> bool:
        return job in self._reserved

    def release(self, job: Job) -> None:
        """Frees the reservation of a job that has ended."""
        self.waiting.pop(job, None)
        size = self._reserved.pop(job, None)
        if size is None:
            return
        self._count(size, -size)
        if not job.failed and not self._is_small(size):
            self._num_deaths = 0
            self._start_limit = min(float(self.max_bytes), self._start_limit + GROWTH * self.max_bytes)

    def advance(self) -> None:
        """Starts waiting jobs in order while their results fit."""
        while self.waiting:
            job = next(iter(self.waiting))
            if not self._fits(job.result_bytes):
                if self.held_bytes and self._clock() >= self._next_free:
                    self._next_free = self._clock() + FREE_INTERVAL
                    self._free_results(job.result_bytes)
                return
            del self.waiting[job]
            self._reserve(job)
            self._start(job)

    def restart(self, jobs: Iterable[Job]) -> None:
        """Lets all unfinished jobs wait after the end of the sink; :meth:`advance` starts them.

        If the sink ends again before a large result is finished, fewer jobs start at a time.
        """
        self._num_deaths += 1
        if self._num_deaths >= SINK_DEATHS:
            self._start_limit = max(1.0, self._start_limit / 2)
        self._reserved.clear()
        self._num_small_bytes = self._num_large_bytes = self.held_bytes = 0
        self.waiting = dict.fromkeys(jobs)

    def _is_small(self, size: int) -> bool:
        return size <= SMALL_SHARE * self.max_bytes

    def _fits(self, size: int) -> bool:
        if self._is_small(size) and self._num_small_bytes + size <= SMALL_TOTAL_SHARE * self.max_bytes:
            return True
        if not self._num_large_bytes and self.held_bytes <= HELD_SHARE * self.max_bytes:
            return True  # so that the largest result is computed, too
        return self.reserved_bytes + self.held_bytes + size <= self._start_limit

    def _reserve(self, job: Job) -> None:
        before = self._reserved.get(job, 0)
        self._reserved[job] = job.result_bytes
        if before:
            self._count(before, -before)
        self._count(job.result_bytes, job.result_bytes)

    def _count(self, size: int, change: int) -> None:
        if self._is_small(size):
            self._num_small_bytes += change
        else:
            self._num_large_bytes += change
