"""The rate limit of the log drops lines and logs how many it dropped."""

from __future__ import annotations

import logging

from bert_serving.server.log import RateLimitFilter


def record(level: int = logging.WARNING, line: int = 1) -> logging.LogRecord:
    return logging.LogRecord("test", level, "file.py", line, "client %r", ("x",), None)


def test_lines_of_one_place_are_limited() -> None:
    now = 0.0
    rate_limit = RateLimitFilter(limit=3, clock=lambda: now)
    assert [rate_limit.filter(record()) for _ in range(5)] == [True, True, True, False, False]
    assert rate_limit.filter(record(line=2))
    assert all(rate_limit.filter(record(logging.ERROR)) for _ in range(9))
    now = 1.0
    next_one = record()
    assert rate_limit.filter(next_one)
    assert next_one.getMessage() == "client 'x' (2 similar lines suppressed)"
