"""Where answers wait until someone fetches them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from ._encoding import has_room
from ._transport.request_table import ReplyOrError


class ReplyStream:
    """Requests that belong together: those of one ``encode_async()``."""

    def __init__(self) -> None:
        self.claimed = False  # its iterator is in use; until then, fetch() gets its results
        self.producing = True  # more requests may follow
        self.cancelled = False
        self.failure: BaseException | None = None  # why no more follow
        self.requests = 0
        self.texts = 0


class Entry(NamedTuple):
    """A request that was sent without waiting, or its answer."""

    number: int
    num_texts: int
    stream: ReplyStream | None


class NoMore:
    """There is no answer and none is expected."""


NO_MORE = NoMore()


class PendingReplies:
    """Answers to requests, in order of arrival. Filled by the I/O thread, emptied by any number of threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._expected: dict[int, Entry] = {}
        self._arrived: dict[int, tuple[Entry, ReplyOrError]] = {}
        self._streams: list[ReplyStream] = []
        self._closed = False

    def expect(self, number: int, num_texts: int = 0, stream: ReplyStream | None = None) -> None:
        """Announces a request, before it is sent."""
        with self._changed:
            self._expected[number] = Entry(number, num_texts, stream)
            if stream is not None:
                stream.requests += 1
                stream.texts += num_texts

    def put(self, number: int, answer: ReplyOrError) -> None:
        """Takes an answer; one that is not expected (any more) is dropped."""
        with self._changed:
            # In an order that may be interrupted anywhere, by Ctrl-C in a caller who reads, and begun again.
            entry = self._expected.get(number)
            if entry is None:
                return
            if not (entry.stream and entry.stream.cancelled):
                self._arrived[number] = entry, answer
            self._expected.pop(number, None)
            self._changed.notify_all()

    def drop(self, number: int) -> None:
        """A request is given up."""
        with self._changed:
            entry = self._expected.pop(number, None)
            if entry is not None:
                self._leave(entry)

    def take(self, stream: ReplyStream | None, seconds: float) -> tuple[int, ReplyOrError] | NoMore | None:
        """The next answer of a stream; of every unclaimed one if ``stream`` is ``None``.

        Returns ``NO_MORE`` if none is expected, ``None`` if none came in time.

        Raises:
            BaseException: what ended the stream, after all its answers were taken.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                for entry, answer in self._arrived.values():
                    if _matches(entry.stream, stream):
                        self._expected.pop(entry.number, None)
                        del self._arrived[entry.number]
                        self._leave(entry)
                        return entry.number, answer
                if not any(_matches(entry.stream, stream) for entry in self._expected.values()):
                    seen = [other for other in self._streams if _matches(other, stream)]
                    for other in seen:
                        if other.failure is not None:
                            self._streams.remove(other)
                            raise other.failure
                    if not any(other.producing for other in seen):
                        return NO_MORE
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)

    def has_replies(self) -> bool:
        """Whether one can be taken."""
        return bool(self._arrived)

    def requeue(self, answers: Sequence[tuple[int, ReplyOrError]]) -> None:
        """Answers that were taken, and cannot be used now, go to the front again."""
        with self._changed:
            self._arrived = {number: (Entry(number, 0, None), answer) for number, answer in answers} | self._arrived
            self._changed.notify_all()

    def awaits(self, stream: ReplyStream | None) -> bool:
        """Whether a request that ``take(stream)`` would give has no answer yet."""
        with self._changed:
            return any(_matches(entry.stream, stream) for entry in self._expected.values())

    def numbers(self) -> set[int]:
        """Requests whose answer was not taken yet."""
        with self._changed:
            return set(self._expected) | set(self._arrived)

    def answers(self) -> dict[int, ReplyOrError]:
        """Answers that nobody has taken yet."""
        with self._changed:
            return {number: answer for number, (_, answer) in self._arrived.items()}

    # ---- streams -------------------------------------------------------------------------------------------------

    def open(self) -> ReplyStream:
        stream = ReplyStream()
        with self._changed:
            self._streams.append(stream)
        return stream

    def wait_for_room(self, stream: ReplyStream) -> bool:
        """Waits until one more request of the stream may be sent; False if none may, ever."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or not stream.producing or has_room(stream.requests, stream.texts)
            )
            return stream.producing and not self._closed

    def finish(self, stream: ReplyStream, failure: BaseException | None = None) -> None:
        """No more requests follow."""
        with self._changed:
            stream.producing = False
            stream.failure = failure
            if failure is None and stream in self._streams:
                self._streams.remove(stream)
            self._changed.notify_all()

    def cancel(self, stream: ReplyStream) -> list[int]:
        """Forgets a stream; returns the numbers of its requests that have no answer yet."""
        with self._changed:
            stream.producing = False
            stream.cancelled = True
            if stream in self._streams:
                self._streams.remove(stream)
            numbers = [entry.number for entry in self._expected.values() if entry.stream is stream]
            for number in numbers:
                del self._expected[number]
            self._arrived = {
                number: (entry, answer)
                for number, (entry, answer) in self._arrived.items()
                if entry.stream is not stream
            }
            self._changed.notify_all()
            return numbers

    def close(self) -> None:
        """Ends every wait for room."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _leave(self, entry: Entry) -> None:
        if entry.stream is not None:
            entry.stream.requests -= 1
            entry.stream.texts -= entry.num_texts
        self._changed.notify_all()


def _matches(owner: ReplyStream | None, asked: ReplyStream | None) -> bool:
    """Whether what belongs to ``owner`` is given to who asks for ``asked``."""
    if asked is not None:
        return owner is asked
    return owner is None or not owner.claimed
