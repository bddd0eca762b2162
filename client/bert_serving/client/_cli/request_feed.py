"""Hands chunks of texts to the thread that sends them, and hands out again those that a used-up limit refused."""

from __future__ import annotations

import itertools
import threading
import time
from bisect import insort
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ..errors import RateLimitedError
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
        texts: what its request encodes; empty if it needs no request.
        number: that of its request; 0 while it is not sent.
    """

    position: int
    chunk: C
    texts: list[Any]
    number: int = 0


class RequestFeed(Generic[C]):
    """Holds the chunks between their reading and the writing of their results.

    `requests` runs in the thread that sends, the other methods in the thread that reads replies. After a refusal,
    nothing is sent until the server allows it. Then the refused chunks go first, fewer at a time.

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
        self._in_flight: dict[int, SentChunk[C]] = {}
        self._refused: list[SentChunk[C]] = []  # in order
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
            entry = SentChunk(position, chunk, texts)
            if texts:
                yield from self._requests_up_to(entry)
            else:
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
            entry = self._in_flight.pop(error.request_id)
            entry.number = 0
            insort(self._refused, entry, key=lambda each: each.position)
            now = time.monotonic()
            if now >= self._resume_at:  # the first refusal of this pause
                self._most_in_flight = max(1.0, self._most_in_flight / 2)
            self._resume_at = max(self._resume_at, now + self._limits.pause(error, entry.chunk.where))
            self._changed.notify()

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

    def _requests_up_to(self, new: SentChunk[C] | None) -> Iterator[list[Any]]:
        """Yields refused requests, and at last a new one; without a new one, until all requests are answered."""
        while (entry := self._wait(new)) is not None:
            yield entry.texts
            if entry is new:
                return

    def _wait(self, new: SentChunk[C] | None) -> SentChunk[C] | None:
        """Waits until a request may be sent. Returns its chunk; ``None`` if none is left."""
        with self._changed:
            while not self._is_closed and (new or self._refused or self._in_flight):
                delay = self._resume_at - time.monotonic()
                if delay <= 0 and len(self._in_flight) < int(self._most_in_flight):
                    entry = self._refused.pop(0) if self._refused else self._take(new)
                    if entry is not None:
                        entry.number = next(self._numbers)
                        self._in_flight[entry.number] = entry
                        return entry
                self._changed.wait(delay if delay > 0 else None)
        return None

    def _take(self, new: SentChunk[C] | None) -> SentChunk[C] | None:
        if new is not None and self._num_unwritten < _MAX_WINDOW:
            self._num_unwritten += 1
            self.sent.append(new)
            return new
        return None
