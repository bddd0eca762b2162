"""Counts of values by size, cheap enough for every request."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

#: Upper bounds (s) of times: from less than a single text takes to more than anyone waits for one.
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
#: Upper bounds of a number of sequences.
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Histogram:
    """How many values lie up to each of some bounds, which ascend, and the sum of all values."""

    __slots__ = ("_counts", "bounds", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.sum = 0.0
        self._counts = [0] * (len(bounds) + 1)  # between two bounds; the last is above them all

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def to_dict(self) -> dict[str, Any]:
        """``bounds``; ``counts``, how many values were counted between a bound and the one before; ``sum``.

        There is one count more than bounds: of the values above the last.
        """
        return {"bounds": self.bounds, "counts": list(self._counts), "sum": round(self.sum, 6)}
