"""How many requests are worked on at a time: a few places, a short queue before them, and a door that can close."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import Overloaded, Stopping


class _Waiter:
    """One thread in the queue."""

    def __init__(self, lock: threading.Lock) -> None:
        self.called = threading.Condition(lock)
        self.has_place = False


class Gate:
    """``limit`` places. Who finds them taken waits in order of arrival.

    Args:
        limit: requests worked on at a time.
        max_waiting: requests that may wait; one more is refused at once.
        patience: longest wait for a place, in seconds.
    """

    def __init__(self, limit: int, max_waiting: int, patience: float) -> None:
        self.limit, self.max_waiting, self.patience = limit, max_waiting, patience
        self._lock = threading.Lock()
        self._queue: deque[_Waiter] = deque()
        self._running = 0
        self._closed = False

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def closed(self) -> bool:
        return self._closed

    @contextmanager
    def place(self) -> Iterator[None]:
        """Holds a place while the block runs.

        Raises:
            Overloaded: the queue is full, or no place became free in time.
            Stopping: the gate is closed.
        """
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def close(self) -> None:
        """Lets nobody in any more; who waits is sent away. Who is inside may finish."""
        with self._lock:
            self._closed = True
            for waiter in self._queue:
                waiter.called.notify()

    def _enter(self) -> None:
        with self._lock:
            self._refuse_if_closed()
            if self._running < self.limit and not self._queue:
                self._running += 1
                return
            if len(self._queue) >= self.max_waiting:
                raise Overloaded(
                    f"{self._running} requests are worked on and {len(self._queue)} wait (-http_max_connect "
                    f"{self.limit}); try again, with more texts in one request instead of many requests"
                )
            waiter = _Waiter(self._lock)
            self._queue.append(waiter)
            deadline = time.monotonic() + self.patience
            while not waiter.has_place and not self._closed:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                waiter.called.wait(left)
            if waiter.has_place:
                return
            self._queue.remove(waiter)
            self._refuse_if_closed()
            raise Overloaded(
                f"no place became free within {self.patience:g} s (-http_max_connect {self.limit}); try again"
            )

    def _leave(self) -> None:
        with self._lock:
            for waiter in self._queue:
                if not self._closed:
                    # The place goes to the first in the queue, so that no newcomer can take it meanwhile.
                    self._queue.popleft()
                    waiter.has_place = True
                    waiter.called.notify()
                    return
            self._running -= 1

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise Stopping("the server is stopping and takes no new requests; try again when it is back")
