"""Estimates how long the batches of a worker take. Pure: durations are arguments, in seconds."""

from __future__ import annotations

#: Longest duration of a batch of bulk, relative to one of queries. If the costs that every batch has are longer, the
#: tokens may add this part of them: fewer tokens would not shorten the batch.
QUERY_PART, FIXED_PART = 0.5, 0.25
#: Duration of a batch of bulk that is never too long: the rest of the way of a query takes as long.
SHORT_SECONDS = 0.002
#: Weight of the newest batch in the averages.
_NEWEST = 0.1


class BatchCosts:
    """Estimates the duration of a worker's batches, as fixed costs and costs for each token."""

    def __init__(self) -> None:
        self._query_seconds = 0.0
        # Moving averages of tokens, seconds, squared tokens, and tokens times seconds.
        self._tokens = self._seconds = self._squares = self._products = 0.0
        self._weight = 0.0

    def add(self, tokens: int, seconds: float, is_bulk: bool) -> None:
        """Adds a batch that is done."""
        if not is_bulk:
            part = _NEWEST if self._query_seconds else 1.0
            self._query_seconds += part * (seconds - self._query_seconds)
        self._weight += _NEWEST * (1 - self._weight)
        part = _NEWEST / self._weight
        self._tokens += part * (tokens - self._tokens)
        self._seconds += part * (seconds - self._seconds)
        self._squares += part * (tokens * tokens - self._squares)
        self._products += part * (tokens * seconds - self._products)

    def bulk_tokens(self) -> int | None:
        """Returns the largest number of tokens of a batch of bulk; None before the first batch of queries."""
        if not self._query_seconds:
            return None
        variance = self._squares - self._tokens**2
        covariance = self._products - self._tokens * self._seconds
        is_known = variance > 0.01 * self._tokens**2 and covariance > 0
        slope = covariance / variance if is_known else self._seconds / self._tokens
        fixed = max(0.0, self._seconds - slope * self._tokens)
        allowed = max(QUERY_PART * self._query_seconds - fixed, SHORT_SECONDS - fixed, FIXED_PART * fixed)
        return max(1, int(allowed / slope))
