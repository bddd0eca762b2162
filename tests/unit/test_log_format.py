"""Nothing from outside ends a log line or controls a terminal."""

from __future__ import annotations

import ast
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.errors import ConfigError
from bert_serving.server.log import _Formatter, make_formatter
from bert_serving.server.supervisor.description import _call, _host

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


@given(st.text())
def test_any_text_is_one_json_object(text: str) -> None:
    line = make_formatter("SINK", "json").format(record("%s", text))
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line)["message"] == text
    assert (json.loads(line)["level"], json.loads(line)["part"]) == ("warning", "SINK")


def test_a_traceback_is_part_of_the_json_object() -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        failed = record("a request failed")
        failed.exc_info = (ValueError, error, error.__traceback__)
    values = json.loads(make_formatter("SINK", "json").format(failed))
    assert "Traceback" in values["traceback"]
    assert values["message"] == "a request failed"


@pytest.mark.parametrize(
    ("host", "shown"),
    [("*", "localhost"), ("0.0.0.0", "localhost"), ("127.0.0.1", "localhost"), ("::", "localhost"), ("::1", "[::1]"),
     ("10.0.0.7", "10.0.0.7"), ("gpu1", "gpu1")],
)  # fmt: skip
def test_addresses_in_the_log_can_be_opened(host: str, shown: str) -> None:
    assert _host(host) == shown


@pytest.mark.parametrize("task", ["embed", "classify", "rerank"])
def test_the_line_to_try_is_python(task: str) -> None:
    config = ServerConfig.from_dict({"model_dir": "m", "task": task, "port": 6000, "host": "10.0.0.7"})
    assert _call(config).startswith("BertClient(ip='10.0.0.7', port=6000).")
    ast.parse(_call(config))
    assert _call(ServerConfig.from_dict({"model_dir": "m"})) == "BertClient().encode(['hello world'])"


def test_verbose_is_the_level_debug() -> None:
    assert ServerConfig.from_dict({"model_dir": "m", "verbose": True}).log_settings == ("debug", "text")
    with pytest.raises(ConfigError, match="-verbose is -log_level debug, but -log_level is quiet"):
        ServerConfig.from_dict({"model_dir": "m", "verbose": True, "log_level": "quiet"})


def test_lines_of_a_traceback_are_no_log_lines() -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        failed = record("a request failed")
        failed.exc_info = (ValueError, error, error.__traceback__)
    first, *others = _Formatter("OTHER").format(failed).split("\n")
    assert first.endswith("a request failed")
    assert all(line[0] == "\t" and line[1:].isprintable() for line in others)
