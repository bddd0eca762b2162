"""Limits how many HTTP requests run at a time, and their memory: slots, bounded queues, and a closed state.

Slots bound the threads. Small requests wait for their vectors without a thread and need little memory, and larger
batches form when many of them run at a time. They have slots of their own, so they never queue behind large ones, as in
the scheduler of the service. The limiters run in the thread of the event loop; a queued request holds no thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .errors import Overloaded, Stopping
from .http_access import RequestShare
from .share_slots import NamedSlot, ShareSlots
from .unit_limiter import UnitLimiter

#: Minimum number of small requests that can run at a time.
SMALL_REQUEST_SLOTS = 64


class ConcurrencyLimiter:
    """Grants slots in order of arrival. Small requests have slots and a queue of their own.

    Args:
        limit: maximum number of running requests that are not small.
        max_queued: maximum length of each queue; further requests are rejected immediately.
        queue_timeout: maximum time (s) in the queue.
        has_shares: every request has a share. Names take turns, and each has queues of its own.
    """

    def __init__(self, limit: int, max_queued: int, queue_timeout: float, has_shares: bool = False) -> None:
        self.limit, self.max_queued, self.queue_timeout = limit, max_queued, queue_timeout
        kind = ShareSlots if has_shares else UnitLimiter
        self._large, self._small = kind(limit), kind(max(limit, SMALL_REQUEST_SLOTS))

    @property
    def running(self) -> int:
        return self._large.running + self._small.running

    @property
    def queued(self) -> int:
        return self._large.queued + self._small.queued

    @property
    def closed(self) -> bool:
        return self._large.closed

    @asynccontextmanager
    async def slot(self, is_small: bool = False) -> AsyncIterator[None]:
        """Holds a slot while the block runs.

        Raises:
            Overloaded: the queue is full, or no slot became free within the queue timeout.
            Stopping: the limiter is closed.
        """
        slots = await self.acquire(is_small)
        try:
            yield
        finally:
            self.release(slots)

    async def acquire(
        self, is_small: bool = False, share: RequestShare | None = None, waited: float = 0.0
    ) -> UnitLimiter | NamedSlot:
        """Takes a slot. Returns what `release` needs.

        Args:
            waited: time (s) that the request has waited before, which counts for the queue timeout.

        Raises:
            Overloaded, Stopping: see `slot`.
        """
        self.raise_if_refused(is_small, share)
        slots, seconds = self._slots(is_small), max(0.0, self.queue_timeout - waited)
        if share is not None and isinstance(slots, ShareSlots):
            slot = await slots.acquire_for(share, seconds)
            if slot is not None:
                return slot
        elif await slots.acquire(1, seconds):
            return slots
        self._raise_if_closed()
        raise Overloaded(
            f"the server is overloaded: no slot became free within {self.queue_timeout:g} s "
            f"(-http_max_connect {self.limit}); retry later"
        )

    def raise_if_refused(self, is_small: bool, share: RequestShare | None = None) -> None:
        """Raises the error of a request that can neither take a slot now nor be queued.

        Raises:
            Overloaded, Stopping: see `slot`.
        """
        self._raise_if_closed()
        slots = self._slots(is_small)
        is_free, queued = slots.free and not slots.queued, slots.queued
        if share is not None and isinstance(slots, ShareSlots):
            is_free, queued = slots.is_free_for(share.name), slots.queued_of(share.name)
        if not is_free and queued >= self.max_queued:
            raise Overloaded(
                f"the server is overloaded: {slots.running} requests run and {queued} are queued "
                f"(-http_max_connect {self.limit}); retry later, with more texts per request"
            )

    def release(self, slots: UnitLimiter | NamedSlot | None) -> None:
        """Releases a slot that `acquire` took; None is no slot."""
        if slots is not None:
            slots.release(1)

    def close(self) -> None:
        """Rejects new and queued requests; running ones finish."""
        self._large.close()
        self._small.close()

    def _slots(self, is_small: bool) -> UnitLimiter:
        return self._small if is_small else self._large

    def _raise_if_closed(self) -> None:
        if self.closed:
            raise Stopping("the server is stopping and accepts no new requests; retry when it has restarted")
