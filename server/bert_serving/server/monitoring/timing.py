"""The stages of a request's duration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time (s) of a request went; the first three add up to ``total``.

    Attributes:
        tokenize: from its arrival until all its texts were tokenized.
        queue: from then until a worker began with the first of them; 0 if it had begun before.
        compute: from then until its last vector was there.
    """

    tokenize: float
    queue: float
    compute: float
    total: float

    @classmethod
    def of(cls, received_at: float, tokenized_at: float, began_at: float, done_at: float) -> Timing:
        began_at = min(max(began_at, tokenized_at), done_at)
        return cls(tokenized_at - received_at, began_at - tokenized_at, done_at - began_at, done_at - received_at)

    def to_dict(self) -> dict[str, float]:
        """As it stands in a reply, to the microsecond."""
        return {
            "tokenize": round(self.tokenize, 6),
            "queue": round(self.queue, 6),
            "compute": round(self.compute, 6),
            "total": round(self.total, 6),
        }
