"""Limits how many HTTP requests run at a time, and their memory: slots, bounded queues, and a closed state.

Slots bound the threads. Small requests need little memory, and larger batches form when many of them run at a time.
Several small requests therefore share one slot. The limiters run in the thread of the event loop; a queued request
holds no thread.
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
    """Grants slots in order of arrival: ``limit`` large requests or `SMALL_REQUEST_SLOTS` small ones at a time.

    Args:
        limit: maximum number of running requests that are not small.
        max_queued: maximum queue length; further requests are rejected immediately.
        queue_timeout: maximum time (s) in the queue.
    """

    def __init__(self, limit: int, max_queued: int, queue_timeout: float) -> None:
        self.limit, self.max_queued, self.queue_timeout = limit, max_queued, queue_timeout
        # A large request needs ``max_running`` units, a small one ``limit``.
        self._units = UnitLimiter(limit * self.max_running)

    @property
    def max_running(self) -> int:
        """Maximum number of running requests if all of them are small."""
        return max(self.limit, SMALL_REQUEST_SLOTS)

    @property
    def running(self) -> int:
        return self._units.running

    @property
    def queued(self) -> int:
        return self._units.queued

    @property
    def closed(self) -> bool:
        return self._units.closed

    @asynccontextmanager
    async def slot(self, is_small: bool = False) -> AsyncIterator[None]:
        """Holds a slot, or a small request's share of one, while the block runs.

        Raises:
            Overloaded: the queue is full, or no slot became free within the queue timeout.
            Stopping: the limiter is closed.
        """
        units = await self.acquire(is_small)
        try:
            yield
        finally:
            self.release(units)

    async def acquire(self, is_small: bool = False) -> int:
        """Takes a slot, or a small request's share of one. Returns the units to release.

        Raises:
            Overloaded, Stopping: see `slot`.
        """
        self.raise_if_refused(is_small)
        units = self._needed(is_small)
        if await self._units.acquire(units, self.queue_timeout):
            return units
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
        is_free = self._needed(is_small) <= self._units.free and not self.queued
        if not is_free and self.queued >= self.max_queued:
            raise Overloaded(
                f"the server is overloaded: {self.running} requests run and {self.queued} are queued "
                f"(-http_max_connect {self.limit}); retry later, with more texts per request"
            )

    def release(self, units: int) -> None:
        """Releases what `acquire` returned; 0 is nothing."""
        if units:
            self._units.release(units)

    def close(self) -> None:
        """Rejects new and queued requests; running ones finish."""
        self._units.close()

    def _needed(self, is_small: bool) -> int:
        return self.limit if is_small else self.max_running

    def _raise_if_closed(self) -> None:
        if self.closed:
            raise Stopping("the server is stopping and accepts no new requests; retry when it has restarted")
