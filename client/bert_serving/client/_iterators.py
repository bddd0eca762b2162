"""The iterators that a blocking client gives out: of fetched results, and of everything that is published."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from ._base import TruncationWarner, warn_dropped
from ._deadline import seconds
from ._encoding import Response
from ._pending import NoMore, ReplyStream
from ._transport.request_table import ReplyOrError
from .errors import BertServingError
from .protocol import Reply

#: Makes a `Response` of a request's number and its reply.
ToResponse = Callable[[int, Reply], Response]


class ResultIterator(Iterator[Response]):
    """Results of requests that were sent without waiting, in order of arrival.

    Unlike a generator, it can be continued after it raised: the error of one request does not hide the others.

    Args:
        next_reply: waits for the next answer, and raises when the wait is over.
        to_response: makes a `Response` of a reply.
        warner: warns of truncated texts.
        stream: the requests of an ``encode_async()``; ``None`` for all that were sent without waiting.
        cancel: drops the requests of ``stream`` that have no answer yet.
        call_soon: lets the I/O thread call a function.
        delay: seconds to sleep before the first result.
    """

    def __init__(
        self,
        next_reply: Callable[[], tuple[int, ReplyOrError] | NoMore],
        to_response: ToResponse,
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

    def __next__(self) -> Response:
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
        number, answer = found
        if isinstance(answer, BertServingError):
            raise answer
        response = self._to_response(number, answer)
        self._warner.check(answer, len(response.embedding), stacklevel=2)
        return response

    def close(self) -> None:
        """Gives up the results of an ``encode_async()`` that are still to come."""
        self._ended = True
        self._cancel()

    def __del__(self) -> None:
        # A loop that was left early: the generator need not be drained any more. An iterator that was never used
        # says nothing; its results can still be had by fetch().
        if self._stream is not None and self._stream.claimed and not self._ended:
            self._call_soon(self._cancel)


class ResultSubscription(Iterator[Response]):
    """Every result that is published to an identity."""

    def __init__(self, to_response: ToResponse, timeout: float | None, max_queued: int) -> None:
        self._to_response = to_response
        self._timeout = seconds(timeout)
        self._queue: deque[tuple[int, Reply]] = deque()
        self._max_queued = max_queued
        self._changed = threading.Condition()
        self._ended = False
        self._dropped = 0

    def put(self, request_id: int, reply: Reply) -> None:
        """Called by the I/O thread."""
        with self._changed:
            if len(self._queue) >= self._max_queued:
                self._queue.popleft()
                self._dropped += 1
            self._queue.append((request_id, reply))
            self._changed.notify()

    def end(self) -> None:
        """No more results will come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    close = end

    def __next__(self) -> Response:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._ended, self._timeout)
            dropped, self._dropped = self._dropped, 0
            if not self._queue:
                raise StopIteration
            request_id, reply = self._queue.popleft()
        if dropped:
            warn_dropped(dropped, stacklevel=2)
        return self._to_response(request_id, reply)
