"""The iterators that a blocking client gives out: of fetched results, and of everything that is published."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from ._base import TruncationNotice, warn_dropped
from ._deadline import seconds
from ._encoding import Response
from ._pending import Nothing, Stream
from .errors import BertServingError
from .protocol import Reply

if TYPE_CHECKING:
    from ._client import BertClient


class Results(Iterator[Response]):
    """Results of requests that were sent without waiting, in order of arrival.

    Unlike a generator, it can be continued after it raised: the error of one request does not hide the others.
    """

    def __init__(self, client: BertClient, stream: Stream | None, delay: float = 0.0, timeout: float = -1) -> None:
        self._client = client
        self._stream = stream
        self._delay = delay
        self._timeout = timeout
        self._notice = TruncationNotice(client)
        self._ended = False

    def __next__(self) -> Response:
        if self._ended:
            raise StopIteration
        if self._delay:
            delay, self._delay = self._delay, 0.0
            time.sleep(delay)
        if self._stream is not None:
            self._stream.claimed = True
        patience = self._client._patience(self._timeout)
        found = self._client._next_answer(self._client._inbox, self._stream, patience)
        if isinstance(found, Nothing):
            self._ended = True
            raise StopIteration
        number, answer = found
        if isinstance(answer, BertServingError):
            raise answer
        response = self._client._response(number, answer)
        self._notice.see(answer, len(response.embedding), stacklevel=2)
        return response

    def close(self) -> None:
        """Gives up the results of an ``encode_async()`` that are still to come."""
        self._ended = True
        if self._stream is not None:
            _give_up(self._client, self._stream)

    def __del__(self) -> None:
        # A loop that was left early: the generator need not be drained any more. An iterator that was never used
        # says nothing; its results can still be had by fetch().
        if self._stream is not None and self._stream.claimed and not self._ended:
            self._client._connection.call_soon(partial(_give_up, self._client, self._stream))


def _give_up(client: BertClient, stream: Stream) -> None:
    for number in client._inbox.cancel(stream):
        client._connection.forget(number)


class Listening(Iterator[Response]):
    """Every result that is published to an identity."""

    def __init__(self, client: BertClient, timeout: float | None, max_queued: int) -> None:
        self._client = client
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
        return self._client._response(request_id, reply)
