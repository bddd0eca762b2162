"""Whether an idle worker should wait a moment before it begins with few sequences. Pure: the clock comes in as numbers.

Clients that wait for their answers before they ask again come back together, a moment after the batch that answered
them. A worker that begins with the first of them makes the others wait for a batch that is hardly cheaper than one of
them all would be: all weights are read for it. So it waits for those whom its last batch has answered, for a small
share of the time that this took. Where requests come at random, and nobody comes back, waiting is in vain: what came of
it the last times decides whether it waits again, and now and then it tries anew.
"""

from __future__ import annotations

#: A batch of fewer tokens takes nearly as long as one of so many.
FEW_TOKENS = 128
#: How long to wait: this share of what the last batch took, so many seconds at most.
SHARE, SECONDS = 0.1, 0.005
#: It was worth it if this share of those who were missing came.
WORTH = 0.5
#: How fast it learns, what it wants to see to wait again, and after how many chances that it passed by it tries anew.
STEP, CONFIDENCE, PATIENCE = 0.25, 0.5, 16


class AdaptiveBatchDelay:
    """Of one worker.

    Attributes:
        until: when it begins at the latest.
    """

    def __init__(self) -> None:
        self.until = 0.0
        self._expected = 0
        self._found: int | None = None  # sequences that waited when it began to wait
        self._success = 1.0  # of the last times, 0 to 1
        self._passed = 0  # chances in a row at which it did not wait

    def answered(self, sequences: int, waiting: int, seconds: float, now: float) -> None:
        """A batch that took so long is done, and with it requests of so many sequences; others wait already."""
        self._expected = waiting + sequences
        self._found = None
        self.until = now + min(SECONDS, SHARE * seconds)

    def goes_on(self, waiting: int, tokens: int, now: float) -> bool:
        """Whether to wait for more than the sequences that are there, of so many tokens."""
        is_early = waiting < self._expected and tokens < FEW_TOKENS and now < self.until
        if is_early and (self._found is not None or self._begins(waiting)):
            return True
        if self._found is not None:
            is_worth = waiting - self._found >= WORTH * (self._expected - self._found)
            self._success += STEP * (is_worth - self._success)
            self._found = None
        self.until = now
        return False

    def _begins(self, waiting: int) -> bool:
        if self._success < CONFIDENCE and self._passed < PATIENCE:
            self._passed += 1
            return False
        self._passed, self._found = 0, waiting
        return True
