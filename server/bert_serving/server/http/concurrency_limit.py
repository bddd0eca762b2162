"""Limits how many HTTP requests run at a time: a number of slots, a bounded queue, and a closed state.

Slots bound the memory of request bodies and vectors. Small requests need little memory, and larger batches form when
many of them run at a time. Several small requests therefore share one slot.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import Overloaded, Stopping

#: Minimum number of small requests that can run at a time.
SMALL_REQUEST_SLOTS = 64


class _QueuedRequest:
    """A queued thread and the units that its request needs."""

    def __init__(self, lock: threading.Lock, units: int) -> None:
        self.changed = threading.Condition(lock)
        self.units = units
        self.has_slot = False


class ConcurrencyLimiter:
    """Grants slots in order of arrival: ``limit`` large requests or `SMALL_REQUEST_SLOTS` small ones at a time.

    Args:
        limit: maximum number of running requests that are not small.
        max_queued: maximum queue length; further requests are rejected immediately.
        queue_timeout: maximum time (s) in the queue.
    """

    def __init__(self, limit: int, max_queued: int, queue_timeout: float) -> None:
        self.limit, self.max_queued, self.queue_timeout = limit, max_queued, queue_timeout
        self._lock = threading.Lock()
        self._queue: deque[_QueuedRequest] = deque()
        self._running = 0
        # A large request needs ``max_running`` units, a small one ``limit``.
        self._free_units = limit * self.max_running
        self._closed = False

    @property
    def max_running(self) -> int:
        """Maximum number of running requests if all of them are small."""
        return max(self.limit, SMALL_REQUEST_SLOTS)

    @property
    def running(self) -> int:
        return self._running

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def closed(self) -> bool:
        return self._closed

    @contextmanager
    def slot(self, is_small: bool = False) -> Iterator[None]:
        """Holds a slot, or a small request's share of one, while the block runs.

        Raises:
            Overloaded: the queue is full, or no slot became free within the queue timeout.
            Stopping: the limiter is closed.
        """
        units = self.limit if is_small else self.max_running
        self._acquire(units)
        try:
            yield
        finally:
            self._release(units)

    def close(self) -> None:
        """Rejects new and queued requests; running ones finish."""
        with self._lock:
            self._closed = True
            for request in self._queue:
                request.changed.notify()

    def _acquire(self, units: int) -> None:
        with self._lock:
            self._raise_if_closed()
            if units <= self._free_units and not self._queue:
                self._take(units)
                return
            if len(self._queue) >= self.max_queued:
                raise Overloaded(
                    f"the server is overloaded: {self._running} requests run and {len(self._queue)} are queued "
                    f"(-http_max_connect {self.limit}); retry later, with more texts per request"
                )
            request = _QueuedRequest(self._lock, units)
            self._queue.append(request)
            deadline = time.monotonic() + self.queue_timeout
            while not request.has_slot and not self._closed:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                request.changed.wait(remaining)
            if request.has_slot:
                return
            self._queue.remove(request)
            self._grant_slots()  # the next request may need fewer units
            self._raise_if_closed()
            raise Overloaded(
                f"the server is overloaded: no slot became free within {self.queue_timeout:g} s "
                f"(-http_max_connect {self.limit}); retry later"
            )

    def _release(self, units: int) -> None:
        with self._lock:
            self._running -= 1
            self._free_units += units
            self._grant_slots()

    def _grant_slots(self) -> None:
        """Grants free units to the head of the queue. The releasing thread does this, so no new request overtakes."""
        while self._queue and self._queue[0].units <= self._free_units and not self._closed:
            request = self._queue.popleft()
            self._take(request.units)
            request.has_slot = True
            request.changed.notify()

    def _take(self, units: int) -> None:
        self._running += 1
        self._free_units -= units

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise Stopping("the server is stopping and accepts no new requests; retry when it has restarted")
