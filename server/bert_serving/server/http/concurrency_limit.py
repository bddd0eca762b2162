"""How many requests are worked on at a time: a few places, a short queue before them, and a door that can close.

Places bound the memory that bodies and vectors take. Small requests take little, and the more of them are under way,
the larger are the batches in which they are computed; so a place is shared by several of them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import Overloaded, Stopping

#: Small requests worked on at a time, if there are fewer places than that.
SMALL_PLACES = 64


class _Waiter:
    """One thread in the queue, and how much room it needs."""

    def __init__(self, lock: threading.Lock, need: int) -> None:
        self.called = threading.Condition(lock)
        self.need = need
        self.has_place = False


class ConcurrencyLimiter:
    """``limit`` places, or `SMALL_PLACES` for small requests. Who finds them taken waits in order of arrival.

    Args:
        limit: requests worked on at a time, if they are not small.
        max_waiting: requests that may wait; one more is refused at once.
        patience: longest wait for a place, in seconds.
    """

    def __init__(self, limit: int, max_waiting: int, patience: float) -> None:
        self.limit, self.max_waiting, self.patience = limit, max_waiting, patience
        self._lock = threading.Lock()
        self._queue: deque[_Waiter] = deque()
        self._running = 0
        # In units of which a large request needs ``most_running``, a small one ``limit``.
        self._room = limit * self.most_running
        self._closed = False

    @property
    def most_running(self) -> int:
        """Requests that can be worked on at a time, if all of them are small."""
        return max(self.limit, SMALL_PLACES)

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
    def place(self, is_small: bool = False) -> Iterator[None]:
        """Holds a place, or the part of one that a small request needs, while the block runs.

        Raises:
            Overloaded: the queue is full, or no place became free in time.
            Stopping: the gate is closed.
        """
        need = self.limit if is_small else self.most_running
        self._enter(need)
        try:
            yield
        finally:
            self._leave(need)

    def close(self) -> None:
        """Lets nobody in any more; who waits is sent away. Who is inside may finish."""
        with self._lock:
            self._closed = True
            for waiter in self._queue:
                waiter.called.notify()

    def _enter(self, need: int) -> None:
        with self._lock:
            self._refuse_if_closed()
            if need <= self._room and not self._queue:
                self._take(need)
                return
            if len(self._queue) >= self.max_waiting:
                raise Overloaded(
                    f"{self._running} requests are worked on and {len(self._queue)} wait (-http_max_connect "
                    f"{self.limit}); try again, with more texts in one request instead of many requests"
                )
            waiter = _Waiter(self._lock, need)
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
            self._let_in()  # who stood behind it may need less
            self._refuse_if_closed()
            raise Overloaded(
                f"no place became free within {self.patience:g} s (-http_max_connect {self.limit}); try again"
            )

    def _leave(self, need: int) -> None:
        with self._lock:
            self._running -= 1
            self._room += need
            self._let_in()

    def _let_in(self) -> None:
        """Gives what is free to the first in the queue, so that no newcomer can take it meanwhile."""
        while self._queue and self._queue[0].need <= self._room and not self._closed:
            waiter = self._queue.popleft()
            self._take(waiter.need)
            waiter.has_place = True
            waiter.called.notify()

    def _take(self, need: int) -> None:
        self._running += 1
        self._room -= need

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise Stopping("the server is stopping and takes no new requests; try again when it is back")
