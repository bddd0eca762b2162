"""Retries the batches of engines that fail and of workers that die.

- If the engine fails, the batch is bisected until the failing sequence is isolated. Only its request gets an error.
- If the worker dies, the batch is split into eighths: each crash costs a restart of a worker. An isolated sequence is
  retried once. If several batches were under way, each of them is computed alone first.

The supervisor notices that a worker died and starts it again. ``Dispatcher.worker_lost`` passes its batches to this
module.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import EncodingFailed, RequestError
from .jobs import Job, JobChunk
from .scheduler import BatchSlice, Scheduler, split

#: Number of crashes after which an isolated sequence is rejected.
MAX_CRASHES = 2
#: Number of batches into which a batch is split after a crash.
CRASH_SPLIT = 8

Slices = list[BatchSlice[JobChunk]]


class BatchRetry:
    """Queues the sequences of failed batches again, in smaller batches.

    Args:
        fail_job: called with a job and the error that ends it.

    Attributes:
        num_alone: number of batches to come that a worker computes alone, since one died with several under way.
    """

    def __init__(self, scheduler: Scheduler[JobChunk], fail_job: Callable[[Job, RequestError], None]) -> None:
        self._scheduler, self._fail_job = scheduler, fail_job
        self._crashes: dict[tuple[int, int], int] = {}  # (job id, row) -> crashes with this sequence alone
        self.num_alone = 0

    def engine_failed(self, slices: Slices, reason: str) -> str:
        """Bisects a batch, or rejects an isolated sequence. Returns the reason if it was rejected, else ``""``."""
        isolated = self._requeue_split(slices, 2)
        if isolated:
            self.reject(isolated[0].key, int(isolated[0].rows[0]), reason)
        return reason if isolated else ""

    def blame(self, held: list[int], several: bool) -> int | None:
        """Returns the batch that a dead worker computed; None if it held none, or if any of several may be the cause.

        Args:
            held: batches of the worker, oldest first.
            several: two of its batches may be under way at once.
        """
        if several and len(held) > 1:
            self.num_alone = len(held)
            return None
        self.num_alone = max(0, self.num_alone - len(held))
        return held[0] if held else None

    def worker_died(self, slices: Slices) -> str:
        """Splits the batch that a dead worker computed, or rejects an isolated sequence after its second crash.

        Returns the reason if it was rejected, else ``""``.
        """
        isolated = self._requeue_split(slices, CRASH_SPLIT)
        if not isolated:
            return ""
        row = _job_row(isolated)
        self._crashes[row] = self._crashes.get(row, 0) + 1
        if self._crashes[row] < MAX_CRASHES:
            self._scheduler.requeue(isolated)
            return ""
        del self._crashes[row]
        reason = f"{MAX_CRASHES} workers died while encoding it"
        self.reject(isolated[0].key, int(isolated[0].rows[0]), reason)
        return reason

    def succeeded(self, slices: Slices) -> None:
        """Forgets the crashes of an isolated sequence that is encoded now."""
        if self._crashes and sum(len(each.rows) for each in slices) == 1:
            self._crashes.pop(_job_row(slices), None)

    def _requeue_split(self, slices: Slices, parts: int) -> Slices:
        """Requeues the sequences in ``parts`` batches. Returns a single sequence instead."""
        slices = live_slices(slices)
        count = sum(len(each.rows) for each in slices)
        if count == 1:
            return slices
        share = -(-count // parts)
        while slices:
            head, slices = split(slices, share)
            self._scheduler.requeue(head)
        return []

    def reject(self, chunk: JobChunk, index: int, reason: str) -> None:
        """Ends the job of a sequence with an error. ``index`` counts from the first sequence of the chunk."""
        self._fail_job(chunk.job, EncodingFailed(f"{chunk.describe(index)} could not be encoded: {reason}"))


def live_slices(slices: Slices) -> Slices:
    """Returns the slices of jobs that have not failed."""
    return [each for each in slices if not each.key.job.failed]


def _job_row(slices: Slices) -> tuple[int, int]:
    chunk = slices[0].key
    return chunk.job.id, chunk.first_row + int(slices[0].rows[0])
