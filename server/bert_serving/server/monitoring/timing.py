"""Splits the duration of a request into stages."""

from __future__ import annotations

import msgspec


class Timing(msgspec.Struct, frozen=True):
    """Durations (s) of a request; the three stages add up to ``total``.

    Attributes:
        tokenize: from the arrival of the request until all its texts are tokenized.
        queue: from then until a worker starts its first batch; 0 if the worker started earlier.
        compute: from then until the last vector is computed.
        total: from the arrival of the request until the last vector is computed.
    """

    tokenize: float
    queue: float
    compute: float
    total: float

    @classmethod
    def of(cls, received_at: float, tokenized_at: float, began_at: float, done_at: float) -> Timing:
        """Computes the durations from times (s) of one monotonic clock."""
        began_at = min(max(began_at, tokenized_at), done_at)
        return cls(tokenized_at - received_at, began_at - tokenized_at, done_at - began_at, done_at - received_at)

    def to_dict(self) -> dict[str, float]:
        """Returns the durations as in a reply, rounded to microseconds."""
        return {
            "tokenize": round(self.tokenize, 6),
            "queue": round(self.queue, 6),
            "compute": round(self.compute, 6),
            "total": round(self.total, 6),
        }
