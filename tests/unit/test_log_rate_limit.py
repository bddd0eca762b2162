"""A flood of log lines is thinned out, and says so."""

from __future__ import annotations

import logging

from bert_serving.server.log import RateLimitFilter


def record(level: int = logging.WARNING, line: int = 1) -> logging.LogRecord:
    return logging.LogRecord("test", level, "file.py", line, "client %r", ("x",), None)


def test_lines_of_one_place_are_limited() -> None:
    now = 0.0
    sparing = RateLimitFilter(most=3, clock=lambda: now)
    assert [sparing.filter(record()) for _ in range(5)] == [True, True, True, False, False]
    assert sparing.filter(record(line=2))
    assert all(sparing.filter(record(logging.ERROR)) for _ in range(9))
    now = 1.0
    next_one = record()
    assert sparing.filter(next_one)
    assert next_one.getMessage() == "client 'x' (2 more lines like this were left out)"
