"""Keeps small requests from waiting for two long batches of bulk. Pure: times are arguments, in seconds.

A worker holds a second batch, so that it does not idle after the first. A small request that arrives meanwhile waits
for both. So while the first batch takes long,

- the second one, if it is bulk, is sent when the first is nearly done;
- bulk fills a batch of small requests to a part of a full batch only.

Neither costs throughput: the worker does not idle, and a part of a long batch is computed as fast for each token.
"""

from __future__ import annotations

from math import inf

#: The second batch is sent before the expected end of the first: so many seconds, or this part of its duration if that
#: is longer. Durations vary, and this process may be late.
AHEAD_SECONDS, AHEAD_PART = 0.025, 0.15
#: Batches that take less than this many seconds are not long.
LONG_SECONDS = 0.05
#: Part of a full batch up to which bulk fills a batch of small requests.
MIXED_PART = 0.25
#: Batches of fewer tokens do not tell how long others take: a part of their duration does not depend on the tokens.
_MIN_TOKENS = 256


class LateBulk:
    """Tracks the running batch of one worker.

    Attributes:
        due_at: time from which the worker may get a second batch of bulk.
    """

    def __init__(self) -> None:
        self.due_at = -inf
        self._seconds_per_token = 0.0

    def on_start(self, tokens: int, now: float) -> None:
        """Records that the worker begins with a batch."""
        seconds = tokens * self._seconds_per_token
        ahead = max(AHEAD_SECONDS, AHEAD_PART * seconds)
        self.due_at = now + seconds - ahead if seconds >= LONG_SECONDS else -inf

    def on_done(self, tokens: int, seconds: float) -> None:
        """Records how long a batch took."""
        if tokens >= _MIN_TOKENS:
            self._seconds_per_token = seconds / tokens

    def mixed_tokens(self, max_tokens: int) -> int | None:
        """Returns the limit of the tokens in a batch of small requests that bulk fills; None if there is none.

        Args:
            max_tokens: tokens of a full batch.
        """
        is_long = max_tokens * self._seconds_per_token >= LONG_SECONDS
        return max(1, int(MIXED_PART * max_tokens)) if is_long else None
