"""Replies between the reading thread and the calls that await them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from ._encoding import has_room
from ._transport.request_table import ReplyOrError


class ReplyStream:
    """The requests of one ``encode_async()``."""

    def __init__(self) -> None:
        self.claimed = False  # whether its iterator is in use; before that, fetch() returns its results
        self.producing = True  # whether more requests may follow
        self.cancelled = False
        self.failure: BaseException | None = None  # what ended the generator
        self.requests = 0
        self.texts = 0


class _Entry(NamedTuple):
    """A request."""

    number: int
    num_texts: int
    stream: ReplyStream | None


class NoMore:
    """No reply is there, and none is expected."""


NO_MORE = NoMore()


class PendingReplies:
    """Replies in order of arrival. The reading thread adds them, any number of threads take them.

    Args:
        num_fronts: number of servers that share the requests.
    """

    def __init__(self, num_fronts: int = 1) -> None:
        self._num_fronts = num_fronts
        self._changed = threading.Condition()
        self._expected: dict[int, _Entry] = {}
        self._arrived: dict[int, tuple[_Entry, ReplyOrError]] = {}
        self._streams: list[ReplyStream] = []
        self._closed = False

    def expect(self, number: int, num_texts: int = 0, stream: ReplyStream | None = None) -> None:
        """Registers a request before it is sent."""
        with self._changed:
            self._expected[number] = _Entry(number, num_texts, stream)
            if stream is not None:
                stream.requests += 1
                stream.texts += num_texts

    def put(self, number: int, reply: ReplyOrError) -> None:
        """Adds a reply. One that is not expected is dropped."""
        with self._changed:
            # KeyboardInterrupt may arrive at any point, and the same reply again later: the order matters.
            entry = self._expected.get(number)
            if entry is None:
                return
            if not (entry.stream and entry.stream.cancelled):
                self._arrived[number] = entry, reply
            self._expected.pop(number, None)
            self._changed.notify_all()

    def drop(self, number: int) -> None:
        """Drops a request."""
        with self._changed:
            entry = self._expected.pop(number, None)
            if entry is not None:
                self._release_room(entry)

    def take(self, stream: ReplyStream | None, seconds: float) -> tuple[int, ReplyOrError] | NoMore | None:
        """Takes the next reply of a stream; of all unclaimed streams and other requests if ``stream`` is ``None``.

        Args:
            seconds: longest wait.

        Returns:
            The number of the request and the reply, ``NO_MORE`` if none is expected, or ``None`` after ``seconds``.

        Raises:
            BaseException: what ended the stream, after all its replies were taken.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                for entry, reply in self._arrived.values():
                    if _matches(entry.stream, stream):
                        self._expected.pop(entry.number, None)
                        del self._arrived[entry.number]
                        self._release_room(entry)
                        return entry.number, reply
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
        """Returns whether a reply can be taken."""
        return bool(self._arrived)

    def requeue(self, replies: Sequence[tuple[int, ReplyOrError]]) -> None:
        """Puts replies that were taken back to the front."""
        with self._changed:
            self._arrived = {number: (_Entry(number, 0, None), reply) for number, reply in replies} | self._arrived
            self._changed.notify_all()

    def awaits(self, stream: ReplyStream | None) -> bool:
        """Returns whether a request of ``take(stream)`` has no reply yet."""
        with self._changed:
            return any(_matches(entry.stream, stream) for entry in self._expected.values())

    def numbers(self) -> set[int]:
        """Returns the numbers of the requests whose reply was not taken yet."""
        with self._changed:
            return set(self._expected) | set(self._arrived)

    def replies(self) -> dict[int, ReplyOrError]:
        """Returns the replies that were not taken yet, by number of the request."""
        with self._changed:
            return {number: reply for number, (_, reply) in self._arrived.items()}

    # ---- streams -------------------------------------------------------------------------------------------------

    def open(self) -> ReplyStream:
        """Starts a stream."""
        stream = ReplyStream()
        with self._changed:
            self._streams.append(stream)
        return stream

    def wait_for_room(self, stream: ReplyStream) -> bool:
        """Waits until one more request of the stream may be sent; returns False if the stream has ended."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closed or not stream.producing or has_room(stream.requests, stream.texts, self._num_fronts)
                )
            )
            return stream.producing and not self._closed

    def finish(self, stream: ReplyStream, failure: BaseException | None = None) -> None:
        """Ends the requests of a stream; ``failure`` is raised after its last reply."""
        with self._changed:
            stream.producing = False
            stream.failure = failure
            if failure is None and stream in self._streams:
                self._streams.remove(stream)
            self._changed.notify_all()

    def cancel(self, stream: ReplyStream) -> list[int]:
        """Drops a stream, and returns the numbers of its requests without a reply."""
        with self._changed:
            stream.producing = False
            stream.cancelled = True
            if stream in self._streams:
                self._streams.remove(stream)
            numbers = [entry.number for entry in self._expected.values() if entry.stream is stream]
            for number in numbers:
                del self._expected[number]
            self._arrived = {
                number: (entry, reply) for number, (entry, reply) in self._arrived.items() if entry.stream is not stream
            }
            self._changed.notify_all()
            return numbers

    def close(self) -> None:
        """Ends every `wait_for_room`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _release_room(self, entry: _Entry) -> None:
        if entry.stream is not None:
            entry.stream.requests -= 1
            entry.stream.texts -= entry.num_texts
        self._changed.notify_all()


def _matches(owner: ReplyStream | None, requested: ReplyStream | None) -> bool:
    """Returns whether ``take(requested)`` returns a reply of the stream ``owner``."""
    if requested is not None:
        return owner is requested
    return owner is None or not owner.claimed
