"""Passes replies from the I/O thread of a connection to the tasks of an event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

from ._transport.request_table import ReplyOrError


class LoopCalls:
    """Calls functions in an event loop, from the I/O thread. Calls that arrive together wake the loop once.

    Each wake-up costs a system call and a switch between the threads.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._is_scheduled = False

    def call(self, function: Callable[..., None], *args: Any) -> None:
        """Calls a function in the loop soon, in the order of these calls."""
        self._calls.append((function, args))
        if not self._is_scheduled:
            self._is_scheduled = True
            with contextlib.suppress(RuntimeError):  # the event loop is closed, so no task waits
                self.loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        self._is_scheduled = False  # before the queue is read: a call that arrives now is read or schedules a run
        while self._calls:
            function, args = self._calls.popleft()
            function(*args)


class ReplyQueue:
    """Replies between the I/O thread and one task.

    Args:
        max_queued: most replies that are kept; beyond it, the oldest is dropped. ``None`` for no limit.

    Attributes:
        queue: replies that have arrived, with the numbers of their requests.
        dropped: number of dropped replies.
    """

    def __init__(self, loop_calls: LoopCalls, max_queued: int | None = None) -> None:
        self._loop_calls = loop_calls
        self._waiter: asyncio.Future[None] | None = None
        self.queue: deque[tuple[int, ReplyOrError]] = deque(maxlen=max_queued)
        self.dropped = 0

    def put(self, number: int, reply: ReplyOrError) -> None:
        """Adds a reply. Called by the I/O thread."""
        self._loop_calls.call(self._arrive, number, reply)

    def notify_threadsafe(self) -> None:
        """Ends the wait. Called by the I/O thread."""
        self._loop_calls.call(self.notify)

    def notify(self) -> None:
        """Ends the wait."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, limit: float | None) -> None:
        """Waits for a reply or a notification, for ``limit`` seconds at most."""
        if self.queue:
            return
        loop = self._loop_calls.loop
        self._waiter = loop.create_future()
        timer = loop.call_later(limit, self.notify) if limit is not None else None
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _arrive(self, number: int, reply: ReplyOrError) -> None:
        self.dropped += len(self.queue) == self.queue.maxlen
        self.queue.append((number, reply))
        self.notify()
