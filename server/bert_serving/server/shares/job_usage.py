"""Counts one request against the limits of its name."""

from __future__ import annotations

from .share import Share
from .usage import ShareUsage


class JobUsage:
    """Counts the texts and the tokens of a job. Pure.

    If tokens are limited, the job is checked as a whole: it starts when all its texts are tokenized.

    Attributes:
        usage: that of the name.
        name: the name, in UTF-8.
        is_bulk: the class of the job is ``bulk``, whatever that of the name is.
        num_texts: texts of the job; known with its first chunk.
        waits_for_end: the job starts when all its texts are tokenized.
    """

    __slots__ = ("_is_counted", "_num_tokens", "_tokens_left", "is_bulk", "name", "num_texts", "usage", "waits_for_end")

    def __init__(self, usage: ShareUsage, is_bulk: bool = False) -> None:
        self.is_bulk = is_bulk
        self.usage, self.waits_for_end = usage, usage.share.limits_tokens
        self.num_texts = self._num_tokens = self._tokens_left = 0
        self._is_counted, self.name = False, usage.share.name.encode()

    @property
    def share(self) -> Share:
        """Weight and class of the job in the queue."""
        return self.usage.share.as_bulk if self.is_bulk else self.usage.share

    def add(self, num_tokens: int, is_last: bool, now: float) -> None:
        """Adds a chunk of the job with this many tokens.

        Raises:
            TooManyTexts, RateLimited: the job is refused.
        """
        self._num_tokens += num_tokens
        if self._is_counted:  # only texts are limited, or nothing
            self._accept(0, num_tokens, now)
            return
        self.usage.check(self.num_texts, self._num_tokens, now)
        if is_last or not self.waits_for_end:
            self._is_counted = True
            self.usage.num_requests += 1
            self._accept(self.num_texts, self._num_tokens, now)

    def add_again(self, now: float) -> None:
        """Adds all texts of the job again, which is computed a second time.

        Raises:
            TooManyTexts, RateLimited: the job is refused.
        """
        self.end()
        self._is_counted = False
        self.add(0, is_last=True, now=now)

    def end(self) -> None:
        """The job has its reply, or was dropped: its tokens wait no more."""
        self.usage.waiting_tokens -= self._tokens_left
        self._tokens_left = 0

    def _accept(self, num_texts: int, num_tokens: int, now: float) -> None:
        self._tokens_left += num_tokens
        self.usage.accept(num_texts, num_tokens, now)
