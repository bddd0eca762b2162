"""Limits an amount in any 60 seconds. Pure: times are arguments, in seconds."""

from __future__ import annotations

from collections import deque
from math import floor, inf

#: Whole seconds that any 60 seconds overlap, if they do not begin with a whole second.
_SLOTS = 61


class MinuteLimit:
    """Counts an amount in slots of one second, and compares the last 61 slots with the limit.

    A token bucket that holds the amount of a minute would let through twice as much in the minute after a pause. Here
    no 60 seconds have more than ``most``.

    Attributes:
        most: the limit; it may change.
        used: amount in the last 61 slots, at the time of the last call.
    """

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0
        self._slots: deque[tuple[int, int]] = deque()  # second and amount, oldest first

    def delay(self, amount: int, now: float) -> float:
        """Returns the seconds until ``amount`` fits: 0 if it fits now, infinity if it exceeds the limit alone."""
        self._expire(now)
        if amount > self.most:
            return inf
        excess = self.used + amount - self.most
        for second, size in self._slots:
            if excess <= 0:
                break
            excess -= size
            if excess <= 0:
                return second + _SLOTS - now
        return 0.0

    def add(self, amount: int, now: float) -> None:
        """Counts an amount."""
        self._expire(now)
        second = floor(now)
        self.used += amount
        if self._slots and self._slots[-1][0] == second:
            amount += self._slots.pop()[1]
        self._slots.append((second, amount))

    def _expire(self, now: float) -> None:
        oldest = floor(now) - _SLOTS + 1
        while self._slots and self._slots[0][0] < oldest:
            self.used -= self._slots.popleft()[1]
