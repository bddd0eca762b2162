"""Hands chunks of texts to the thread that sends them, and hands out again those that a used-up limit refused."""

from __future__ import annotations

import itertools
import threading
import time
from bisect import insort
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from ..errors import RateLimitedError, TooLargeError
from ..rate_limits import LimitReport

#: Most requests that are sent and whose results were not written.
_MAX_WINDOW = 64


class TextChunk(Protocol):
    """Texts that are encoded in one request."""

    @property
    def texts(self) -> Sequence[str | None]:
        """The texts; ``""`` and ``None`` are not encoded."""
        ...

    @property
    def where(self) -> str:
        """Where the texts are, for messages."""
        ...


C = TypeVar("C", bound=TextChunk)


@dataclass
class SentChunk(Generic[C]):
    """A chunk whose result is not written.

    Attributes:
        position: number of chunks before it.
        requests: those of its texts, in order: one, or several if the texts exceed a limit of the server together; none
            if it has no texts.
    """

    position: int
    chunk: C
    requests: list[SentTexts[C]] = field(default_factory=list)


@dataclass(eq=False)
class SentTexts(Generic[C]):
    """The texts of one request.

    Attributes:
        entry: their chunk.
        first: number of texts of the chunk before them.
        texts: what the request encodes.
        number: that of the request; 0 while it is not sent.
    """

    entry: SentChunk[C]
    first: int
    texts: list[Any]
    number: int = 0


class RequestFeed(Generic[C]):
    """Holds the chunks between their reading and the writing of their results.

    `requests` runs in the thread that sends, the other methods in the thread that reads replies. After a refusal,
    nothing is sent until the server allows it. Then the refused texts go first, fewer at a time. Texts that exceed a
    limit together are sent in several requests, and so are those of later chunks.

    Args:
        first_number: number of the first request.
        limits: receives refusals.

    Attributes:
        sent: the chunks, in order.
    """

    def __init__(self, chunks: Iterator[C], is_tokenized: bool, first_number: int, limits: LimitReport) -> None:
        self.sent: deque[SentChunk[C]] = deque()
        self._chunks, self._is_tokenized, self._limits = chunks, is_tokenized, limits
        self._numbers = itertools.count(first_number)
        self._in_flight: dict[int, SentTexts[C]] = {}
        self._refused: list[SentTexts[C]] = []  # in order
        self._most_texts: int | None = None  # of a request, once one with more was refused
        # One of several servers may be late, so the results of the others are limited, which wait for an earlier one.
        self._num_unwritten = 0
        self._most_in_flight = float(_MAX_WINDOW)
        self._resume_at = 0.0
        self._is_closed = False
        self._changed = threading.Condition()

    def requests(self) -> Iterator[list[Any]]:
        """Yields the texts of each request."""
        for position, chunk in enumerate(self._chunks):
            texts = [text.split() if self._is_tokenized else text for text in chunk.texts if text]
            entry = SentChunk(position, chunk)
            size = self._most_texts or len(texts)
            entry.requests = [
                SentTexts(entry, first, texts[first : first + size]) for first in range(0, len(texts), max(1, size))
            ]
            for each in tuple(entry.requests):  # one that is sent may be divided meanwhile
                yield from self._requests_up_to(each)
            if not texts:
                self.sent.append(entry)
            if self._is_closed:
                return
        yield from self._requests_up_to(None)

    def answered(self, number: int) -> None:
        """Records that a request has its result, or an error that ends the run."""
        with self._changed:
            del self._in_flight[number]
            self._most_in_flight = min(_MAX_WINDOW, self._most_in_flight + 1 / self._most_in_flight)
            self._changed.notify()

    def refused(self, error: RateLimitedError) -> None:
        """Records that a request is to be sent again."""
        with self._changed:
            request = self._in_flight.pop(error.request_id)
            self._queue_again(request)
            now = time.monotonic()
            if now >= self._resume_at:  # the first refusal of this pause
                self._most_in_flight = max(1.0, self._most_in_flight / 2)
            self._resume_at = max(self._resume_at, now + self._limits.pause(error, request.entry.chunk.where))
            self._changed.notify()

    def divided(self, error: TooLargeError) -> bool:
        """Divides the texts of a request that exceed a limit together. Returns false if they are one text."""
        with self._changed:
            request = self._in_flight[error.request_id]
            texts, middle = request.texts, (len(request.texts) + 1) // 2
            if len(texts) < 2:
                return False
            del self._in_flight[error.request_id]
            halves = [
                SentTexts(request.entry, request.first, texts[:middle]),
                SentTexts(request.entry, request.first + middle, texts[middle:]),
            ]
            place = request.entry.requests.index(request)
            request.entry.requests[place : place + 1] = halves
            for half in halves:
                self._queue_again(half)
            self._most_texts = min(middle, self._most_texts or middle)
            self._changed.notify()
            return True

    def _queue_again(self, request: SentTexts[C]) -> None:
        request.number = 0
        insort(self._refused, request, key=lambda each: (each.entry.position, each.first))

    def written(self) -> None:
        """Records that the result of a request is taken."""
        with self._changed:
            self._num_unwritten -= 1
            self._changed.notify()

    def close(self) -> None:
        """Ends `requests`."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def _requests_up_to(self, new: SentTexts[C] | None) -> Iterator[list[Any]]:
        """Yields refused requests, and at last a new one; without a new one, until all requests are answered."""
        while (request := self._wait(new)) is not None:
            yield request.texts
            if request is new:
                return

    def _wait(self, new: SentTexts[C] | None) -> SentTexts[C] | None:
        """Waits until a request may be sent, and returns it; ``None`` if none is left."""
        with self._changed:
            while not self._is_closed and (new or self._refused or self._in_flight):
                delay = self._resume_at - time.monotonic()
                if delay <= 0 and len(self._in_flight) < int(self._most_in_flight):
                    request = self._refused.pop(0) if self._refused else self._take(new)
                    if request is not None:
                        request.number = next(self._numbers)
                        self._in_flight[request.number] = request
                        return request
                self._changed.wait(delay if delay > 0 else None)
        return None

    def _take(self, new: SentTexts[C] | None) -> SentTexts[C] | None:
        if new is None or new.first:  # the chunk of further texts counts already
            return new
        if self._num_unwritten >= _MAX_WINDOW:
            return None
        self._num_unwritten += 1
        self.sent.append(new.entry)
        return new
