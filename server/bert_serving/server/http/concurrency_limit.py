"""Limits how many HTTP requests run at a time, and their memory: slots, bounded queues, and a closed state.

Slots bound the threads. Small requests wait for their vectors without a thread and need little memory, and larger
batches form when many of them run at a time. They have slots of their own, so they never queue behind large ones, as in
the scheduler of the service. The limiters run in the thread of the event loop; a queued request holds no thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .errors import Overloaded, Stopping

#: Minimum number of small requests that can run at a time.
SMALL_REQUEST_SLOTS = 64


class _QueuedRequest:
    """A queued request and the units that it needs."""

    def __init__(self, units: int) -> None:
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.units = units

    @property
    def is_granted(self) -> bool:
        return self.granted.done() and not self.granted.cancelled()


class UnitLimiter:
    """Grants units in order of arrival.

    Attributes:
        free: units that are not granted.
        running: number of requests that hold units.
    """

    def __init__(self, units: int) -> None:
        self.free, self.running = units, 0
        self._queue: deque[_QueuedRequest] = deque()
        self.closed = False

    @property
    def queued(self) -> int:
        return len(self._queue)

    async def acquire(self, units: int, seconds: float) -> bool:
        """Takes units, or returns false if they are not free within ``seconds``, or the limiter is closed."""
        if self.closed:
            return False
        if units <= self.free and not self._queue:
            self.take(units)
            return True
        request = _QueuedRequest(units)
        self._queue.append(request)
        try:
            await asyncio.wait([request.granted], timeout=seconds)
        except asyncio.CancelledError:
            if request.is_granted:
                self.release(units)
            raise
        finally:
            if not request.granted.done():
                self._queue.remove(request)
                self._grant()  # the next request may need fewer units
        return request.is_granted

    def take(self, units: int) -> None:
        """Takes units, whether they are free or not."""
        self.running += 1
        self.free -= units

    def release(self, units: int) -> None:
        self.running -= 1
        self.free += units
        self._grant()

    def close(self) -> None:
        """Grants nothing any more; queued requests return."""
        self.closed = True
        while self._queue:
            self._queue.popleft().granted.cancel()

    def _grant(self) -> None:
        """Grants free units to the head of the queue. The releasing request does this, so no new request overtakes."""
        while self._queue and self._queue[0].units <= self.free:
            request = self._queue.popleft()
            self.take(request.units)
            request.granted.set_result(None)


class ConcurrencyLimiter:
    """Grants slots in order of arrival. Small requests have slots and a queue of their own.

    Args:
        limit: maximum number of running requests that are not small.
        max_queued: maximum length of each queue; further requests are rejected immediately.
        queue_timeout: maximum time (s) in the queue.
    """

    def __init__(self, limit: int, max_queued: int, queue_timeout: float) -> None:
        self.limit, self.max_queued, self.queue_timeout = limit, max_queued, queue_timeout
        self._large, self._small = UnitLimiter(limit), UnitLimiter(max(limit, SMALL_REQUEST_SLOTS))

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

    async def acquire(self, is_small: bool = False) -> UnitLimiter:
        """Takes a slot. Returns the slots to which it belongs, for `release`.

        Raises:
            Overloaded, Stopping: see `slot`.
        """
        self.raise_if_refused(is_small)
        slots = self._slots(is_small)
        if await slots.acquire(1, self.queue_timeout):
            return slots
        self._raise_if_closed()
        raise Overloaded(
            f"the server is overloaded: no slot became free within {self.queue_timeout:g} s "
            f"(-http_max_connect {self.limit}); retry later"
        )

    def raise_if_refused(self, is_small: bool) -> None:
        """Raises the error of a request that can neither take a slot now nor be queued.

        Raises:
            Overloaded, Stopping: see `slot`.
        """
        self._raise_if_closed()
        slots = self._slots(is_small)
        is_free = slots.free and not slots.queued
        if not is_free and slots.queued >= self.max_queued:
            raise Overloaded(
                f"the server is overloaded: {slots.running} requests run and {slots.queued} are queued "
                f"(-http_max_connect {self.limit}); retry later, with more texts per request"
            )

    def release(self, slots: UnitLimiter | None) -> None:
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
