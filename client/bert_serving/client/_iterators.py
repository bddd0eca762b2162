"""The iterators that a blocking client returns: over fetched results, and over all published results."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic

from ._base import TruncationWarner, warn_dropped
from ._deadline import seconds
from ._encoding import E, Response, SpaceCheck
from ._pending import NoMore, ReplyStream
from ._transport.request_table import ReplyOrError
from .errors import BertServingError
from .protocol import Reply


class ResultIterator(Iterator[Response[E]], Generic[E]):
    """Iterator over the results of requests that were sent without waiting, in order of arrival.

    Unlike a generator, it continues after an exception: the error of one request does not hide the other results.

    Args:
        next_reply: waits for the next reply, and raises an error if the wait is over.
        to_response: makes a `Response` of a request's number and its reply.
        warner: warns of truncated texts.
        stream: the requests of an ``encode_async()``; ``None`` for all requests that were sent without waiting.
        cancel: drops the replies and requests of ``stream``.
        call_soon: calls a function in the I/O thread.
        delay: seconds to sleep before the first result.
    """

    def __init__(
        self,
        next_reply: Callable[[], tuple[int, ReplyOrError] | NoMore],
        to_response: Callable[[int, Reply], Response[E]],
        warner: TruncationWarner,
        stream: ReplyStream | None,
        cancel: Callable[[], None],
        call_soon: Callable[[Callable[[], None]], None],
        delay: float = 0.0,
    ) -> None:
        self._next_reply = next_reply
        self._to_response = to_response
        self._warner = warner
        self._stream = stream
        self._cancel = cancel
        self._call_soon = call_soon
        self._delay = delay
        self._ended = False
        self._spaces = SpaceCheck()

    def __next__(self) -> Response[E]:
        if self._ended:
            raise StopIteration
        if self._delay:
            delay, self._delay = self._delay, 0.0
            time.sleep(delay)
        if self._stream is not None:
            self._stream.claimed = True
        found = self._next_reply()
        if isinstance(found, NoMore):
            self._ended = True
            raise StopIteration
        number, reply = found
        if isinstance(reply, BertServingError):
            raise reply
        if self._stream is not None:
            self._spaces.add(number, reply)
        response = self._to_response(number, reply)
        self._warner.check(reply, len(response.embedding), stacklevel=2)
        return response

    def close(self) -> None:
        """Drops the remaining results of an ``encode_async()``."""
        self._ended = True
        self._cancel()

    def __del__(self) -> None:
        # A loop ended early, so the rest of the generator is not needed. If the iterator was never used, its results
        # stay available to fetch().
        if self._stream is not None and self._stream.claimed and not self._ended:
            self._call_soon(self._cancel)


class ResultSubscription(Iterator[Response[E]], Generic[E]):
    """Iterator over all results that are published to an identity.

    Args:
        to_response: makes a `Response` of a request's number and its reply.
        timeout: longest wait in milliseconds for a result; ``None`` or -1 for no limit.
        max_queued: most results in the queue; beyond it, the oldest is dropped.
    """

    def __init__(
        self, to_response: Callable[[int, Reply], Response[E]], timeout: float | None, max_queued: int
    ) -> None:
        self._to_response = to_response
        self._timeout = seconds(timeout)
        self._queue: deque[tuple[int, Reply]] = deque()
        self._max_queued = max_queued
        self._changed = threading.Condition()
        self._ended = False
        self._dropped = 0

    def put(self, request_id: int, reply: Reply) -> None:
        """Adds a result. Called by the reading thread."""
        with self._changed:
            if len(self._queue) >= self._max_queued:
                self._queue.popleft()
                self._dropped += 1
            self._queue.append((request_id, reply))
            self._changed.notify()

    def end(self) -> None:
        """Ends the iteration after the queued results."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    close = end

    def __next__(self) -> Response[E]:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._ended, self._timeout)
            dropped, self._dropped = self._dropped, 0
            if not self._queue:
                raise StopIteration
            request_id, reply = self._queue.popleft()
        if dropped:
            warn_dropped(dropped, stacklevel=2)
        return self._to_response(request_id, reply)
