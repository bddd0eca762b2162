"""Grants units, such as slots or bytes, to HTTP requests. Runs in the thread of the event loop."""

from __future__ import annotations

import asyncio
from collections import deque


class QueuedRequest:
    """A queued request and the units that it needs. Requests are compared by identity."""

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
        self._queue: deque[QueuedRequest] = deque()
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
        return await self._wait(QueuedRequest(units), seconds)

    async def _wait(self, request: QueuedRequest, seconds: float) -> bool:
        """Queues a request, and returns whether it was granted within ``seconds``."""
        self._queue.append(request)
        try:
            await asyncio.wait([request.granted], timeout=seconds)
        except asyncio.CancelledError:
            if request.is_granted:
                self._release(request)
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
        """Grants free units to queued requests. The releasing request does this, so no new request overtakes."""
        while (request := self._next()) is not None:
            self._queue.remove(request)
            self._take(request)
            request.granted.set_result(None)

    def _next(self) -> QueuedRequest | None:
        """Returns the request that is granted next, if its units are free."""
        return self._queue[0] if self._queue and self._queue[0].units <= self.free else None

    def _take(self, request: QueuedRequest) -> None:
        self.take(request.units)

    def _release(self, request: QueuedRequest) -> None:
        self.release(request.units)
