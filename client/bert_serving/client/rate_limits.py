"""Waits for servers that limit the texts or tokens of a key. The server imports it too."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from math import ceil
from typing import TypeVar

from .errors import RateLimitedError, TooLargeError

Report = Callable[[str], None]

#: Seconds before a request is sent again, if the server does not say how many, and between two lines about a limit.
_RETRY_SECONDS, _REPORT_SECONDS = 1.0, 60.0

T = TypeVar("T")


class LimitReport:
    """Reports, once a minute at most, that a run waits because a limit of the server is used up.

    Args:
        report: receives a sentence.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._next_at = 0.0

    def pause(self, error: RateLimitedError, where: str) -> float:
        """Returns the seconds until the request may be sent again."""
        delay = _RETRY_SECONDS if error.retry_after is None else max(0.0, error.retry_after)
        now = time.monotonic()
        if now >= self._next_at:
            self._next_at = now + _REPORT_SECONDS
            self._report(f"{where}: waits {ceil(delay)} s for the server, whose limit is used up: {error.message}")
        return delay


def when_allowed(call: Callable[[], T], limits: LimitReport, where: str) -> T:
    """Returns what a call returns. Repeats the call while a limit of the server is used up.

    Args:
        where: which texts the call encodes, for the report.
    """
    while True:
        try:
            return call()
        except RateLimitedError as error:
            time.sleep(limits.pause(error, where))


def within_limits(
    encode: Callable[[list[str]], T], chunks: Iterable[list[str]], limits: LimitReport
) -> Iterator[tuple[list[str], T]]:
    """Yields the texts of each request with its result, in order.

    A request waits while a limit of the server is used up. Texts that exceed a limit alone are sent in several
    requests, and so are those after them.

    Args:
        encode: encodes texts in one request.
        limits: reports that a limit of the server is used up.

    Raises:
        BertServingError: the server refused a request for another reason, or one text exceeds a limit.
    """
    size: int | None = None
    done = 0
    for chunk in chunks:
        start = 0
        while start < len(chunk):
            texts = chunk[start : start + (size or len(chunk))]
            try:
                result = when_allowed(partial(encode, texts), limits, f"texts {done + 1:,} to {done + len(texts):,}")
            except TooLargeError as error:
                if len(texts) == 1 or not error.is_divisible:
                    raise
                size = (len(texts) + 1) // 2
                continue
            yield texts, result
            start += len(texts)
            done += len(texts)
