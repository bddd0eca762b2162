"""Nothing from outside ends a log line or controls a terminal."""

from __future__ import annotations

import logging

from hypothesis import given
from hypothesis import strategies as st

from bert_serving.server.log import _Formatter

HOSTILE = "\x1b[2J\r\n2026-01-01 00:00:00.000 I:SINK:[sin:run:  1]:forged\x85\u2028\u2029\x9b31m\u202e\0"


def record(message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("test", logging.WARNING, "file.py", 1, message, args, None, "run")


def test_a_hostile_message_is_one_printable_line() -> None:
    for line in (_Formatter("OTHER").format(record("key %s", HOSTILE)), _Formatter("OTHER").format(record(HOSTILE))):
        assert line.isprintable()
        assert "\\x1b[2J\\r\\n2026-01-01" in line
        assert "forged\\x85\\u2028\\u2029\\x9b31m\\u202e\\x00" in line


@given(st.text())
def test_any_text_is_one_printable_line_and_keeps_printable_characters(text: str) -> None:
    line = _Formatter("OTHER").format(record("%s", text))
    assert line.replace("\t", "").isprintable()
    if text.isprintable():
        assert line.endswith(f":{text}")


def test_lines_of_a_traceback_are_no_log_lines() -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        failed = record("a request failed")
        failed.exc_info = (ValueError, error, error.__traceback__)
    first, *others = _Formatter("OTHER").format(failed).split("\n")
    assert first.endswith("a request failed")
    assert all(line[0] == "\t" and line[1:].isprintable() for line in others)
