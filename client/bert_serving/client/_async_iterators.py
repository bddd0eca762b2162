"""The asynchronous iterators: over all published results, and over the batches of a caller."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Any, Generic

from ._base import raise_if_error, warn_dropped
from ._deadline import seconds
from ._encoding import E, Response
from ._reply_queue import ReplyQueue
from .protocol import Reply


class AsyncResultSubscription(AsyncIterator[Response[E]], Generic[E]):
    """Asynchronous iterator over all results that are published to an identity.

    Args:
        to_response: makes a `Response` of a request's number and its reply.
        replies: the results that were not returned yet.
        timeout: longest wait in milliseconds for a result; ``None`` or -1 for no limit.
    """

    def __init__(
        self, to_response: Callable[[int, Reply], Response[E]], replies: ReplyQueue, timeout: float | None
    ) -> None:
        self._to_response = to_response
        self._timeout = seconds(timeout)
        self._replies = replies
        self._ended = False

    def put(self, request_id: int, reply: Reply) -> None:
        """Adds a result. Called by the I/O thread."""
        self._replies.put(request_id, reply)

    def end(self) -> None:
        """Ends the iteration after the queued results."""
        self._ended = True
        self._replies.notify_threadsafe()

    async def __anext__(self) -> Response[E]:
        if not self._replies.queue and not self._ended:
            await self._replies.wait(self._timeout)
        if not self._replies.queue:
            raise StopAsyncIteration
        dropped, self._replies.dropped = self._replies.dropped, 0
        if dropped:
            warn_dropped(dropped, stacklevel=2)
        request_id, reply = self._replies.queue.popleft()
        return self._to_response(request_id, raise_if_error(reply))


async def async_iterator(batches: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    """Yields the items of an iterable, asynchronous or not."""
    if isinstance(batches, AsyncIterable):
        async for batch in batches:
            yield batch
    else:
        for batch in batches:
            yield batch
