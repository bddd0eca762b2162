"""Counts values in buckets, in constant time per value."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

#: Upper bounds (s) of durations: from less than one short text takes to more than the longest useful timeout.
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
#: Upper bounds of batch sizes, in sequences.
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Histogram:
    """A histogram with ascending upper bounds, and the sum of all values."""

    __slots__ = ("_counts", "bounds", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.sum = 0.0
        self._counts = [0] * (len(bounds) + 1)  # the last bucket has no upper bound

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @classmethod
    def sum_of(cls, histograms: Sequence[Histogram]) -> Histogram:
        """Returns the histogram of all values of histograms with the same bounds."""
        result = cls(histograms[0].bounds)
        result.sum = sum(each.sum for each in histograms)
        result._counts = [sum(counts) for counts in zip(*(each._counts for each in histograms), strict=True)]
        return result

    def to_dict(self) -> dict[str, Any]:
        """Returns ``bounds``, ``counts`` per bucket (not cumulative), and ``sum``.

        ``counts`` has one more element than ``bounds``, for values above the last bound.
        """
        return {"bounds": self.bounds, "counts": list(self._counts), "sum": round(self.sum, 6)}
