"""The parts of a corpus: fixed ranges of rows that are encoded and written one by one. Pure."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple


class Part(NamedTuple):
    """Rows of one input that become one file of the output.

    Attributes:
        number: position in the corpus, from 0.
        file: position of the input in the list of inputs, from 0.
        first: first row in the input, from 0.
        rows: number of rows, at least 1.
    """

    number: int
    file: int
    first: int
    rows: int

    def name(self, output_format: str) -> str:
        """Returns the name of the file that holds its vectors; names of up to a million parts sort like parts."""
        return f"part-{self.number:06}.{output_format}"


def plan(rows: Sequence[int], size: int) -> list[Part]:
    """Divides inputs with these numbers of rows into parts of ``size`` rows, and one with the rest of each input."""
    ranges = [(file, first) for file, total in enumerate(rows) for first in range(0, total, size)]
    return [Part(number, file, first, min(size, rows[file] - first)) for number, (file, first) in enumerate(ranges)]


class Holder:
    """The parts that one connection encodes. A holder is used once.

    Attributes:
        parts: numbers of the parts under way.
        is_released: whether the holder takes no further part.
    """

    def __init__(self) -> None:
        self.parts: set[int] = set()
        self.is_released = False


class PartQueue:
    """Gives every part to one holder at a time, until all parts are done. Any number of threads may share it.

    Args:
        parts: all parts of the corpus.
        done: numbers of the parts that an earlier run has written.
    """

    def __init__(self, parts: Sequence[Part], done: Collection[int] = ()) -> None:
        self._changed = threading.Condition()
        self._parts = {part.number: part for part in parts if part.number not in done}
        self._waiting = sorted(self._parts)
        self._is_stopped = False

    def take(self, holder: Holder) -> Part | None:
        """Returns the next part. Blocks while other holders have all of them, because they may release some.

        Returns:
            ``None`` if all parts are done, the holder is released, or the queue is stopped.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._parts or self._is_stopped or holder.is_released)
            if self._is_stopped or holder.is_released or not self._waiting:
                return None
            number = heapq.heappop(self._waiting)
            holder.parts.add(number)
            return self._parts[number]

    def done(self, holder: Holder, part: Part) -> None:
        """Records that a part is written."""
        with self._changed:
            holder.parts.discard(part.number)
            del self._parts[part.number]
            self._changed.notify_all()

    def release(self, holder: Holder) -> None:
        """Makes the parts of a holder available to others."""
        with self._changed:
            holder.is_released = True
            self._requeue(holder.parts)
            holder.parts = set()
            self._changed.notify_all()

    def stop(self) -> None:
        """Ends every `take`."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    @property
    def is_complete(self) -> bool:
        """Whether all parts are done."""
        with self._changed:
            return not self._parts

    def _requeue(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            heapq.heappush(self._waiting, number)
