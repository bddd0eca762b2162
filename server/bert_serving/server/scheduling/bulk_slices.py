"""Keeps bulk from delaying queries, on a server with shares. Pure: the clock is an argument.

A query that arrives while a worker computes a batch of bulk waits for the end of this batch. So for some seconds after
each batch of queries,

- one of several workers computes no bulk, and takes queries at once;
- a single worker gets batches of bulk that take half as long as its queries, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf

from .jobs import JobChunk
from .scheduler import BatchSlice, Scheduler
from .worker_state import InFlightBatch, WorkerState

#: Seconds after a batch of queries for which bulk is limited.
ACTIVE_SECONDS = 10.0


class BulkSlices:
    """Decides which worker gets bulk, and how much.

    Args:
        clock: returns monotonic seconds.

    Attributes:
        ends_at: time at which bulk is not limited any more, unless queries arrive.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self.ends_at = clock, -inf

    def pick(
        self,
        scheduler: Scheduler[JobChunk],
        first: WorkerState,
        workers: Iterable[WorkerState],
        free: Iterable[WorkerState],
        in_flight: Mapping[int, InFlightBatch],
    ) -> WorkerState | None:
        """Returns the worker for the next batch; None if bulk waits, so that queries do not.

        Args:
            first: the worker that gets the batch if bulk is not limited.
            free: workers that can take a batch.
        """
        if self._clock() >= self.ends_at or not scheduler.has_bulk_only:
            return first
        usable = [each for each in workers if _is_usable(each)]
        if len(usable) == 1:
            return None if first.in_flight else first
        with_bulk = [each for each in usable if any(in_flight[batch].is_bulk for batch in each.in_flight)]
        if len(with_bulk) < len(usable) - 1:
            return first
        return next((each for each in free if each in with_bulk), None)

    def next_batch(
        self, scheduler: Scheduler[JobChunk], state: WorkerState, workers: Iterable[WorkerState]
    ) -> list[BatchSlice[JobChunk]]:
        """Removes and returns the next batch for a worker."""
        now = self._clock()
        is_active = now < self.ends_at
        is_alone = is_active and sum(map(_is_usable, workers)) == 1
        batch = scheduler.next_batch(state.limits, True, state.costs.bulk_tokens() if is_alone else None)
        if not scheduler.is_bulk:
            self.ends_at = now + ACTIVE_SECONDS
        return batch


def _is_usable(state: WorkerState) -> bool:
    return not state.is_draining and state.is_available
