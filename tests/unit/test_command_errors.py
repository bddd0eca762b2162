"""Tests the errors of commands about files: the path, the reason, the remedy. No server runs."""

from __future__ import annotations

import argparse
import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bert_serving.client._cli.command_line import get_parser as get_encode_parser
from bert_serving.client._cli.encode import main as encode
from bert_serving.client.command_parser import CommandParser, describe_error
from bert_serving.server.benchmark.cli import main as benchmark
from bert_serving.server.cli.calibrate import main as calibrate
from bert_serving.server.cli.drift import main as drift
from bert_serving.server.cli.keygen import keygen
from bert_serving.server.config.command_line import get_args_parser
from servers import TINY

Command = Callable[[Sequence[str]], int]
MODEL = ["-model_dir", str(TINY)]


@pytest.mark.parametrize(
    ("command", "arguments", "missing"),
    [
        (encode, ["none.txt"], "none.txt"),
        (benchmark, [*MODEL, "-texts", "none.txt"], "none.txt"),
        (calibrate, ["none.txt", "-o", "out.json"], "none.txt"),
        (drift, ["none.txt", "-o", "out.json"], "none.txt"),
        (calibrate, ["texts.txt", "-o", "none/out.json"], "none/"),  # before texts are encoded for it
        (drift, ["texts.txt", "-o", "none/out.json"], "none/"),
        (keygen, ["texts.txt/keys"], "texts.txt/keys/clients"),
    ],
)
def test_an_error_of_a_file_names_path_reason_and_remedy(
    command: Command,
    arguments: list[str],
    missing: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("a text\n", encoding="utf-8")
    assert command(arguments) in (1, 2)
    *_, last = capsys.readouterr().err.splitlines()
    reason = os.strerror(errno.ENOTDIR if command is keygen else errno.ENOENT)
    assert last.endswith(f": {missing}: {reason}; check the path")


def test_other_errors_keep_their_text() -> None:
    assert describe_error(ValueError("a reason")) == "a reason"
    assert describe_error(TimeoutError("no reply")) == "no reply"
    assert describe_error(OSError(errno.EIO, "Input/output error", "disk")) == "disk: Input/output error"


def test_the_usage_of_many_flags_is_one_line() -> None:
    for parser, usage in [
        (get_args_parser(), "usage: bert-serving-start [flag ...]\n"),
        (get_encode_parser(), "usage: bert-serving-encode [flag ...] FILE [FILE ...]\n"),
    ]:
        assert parser.format_help().startswith(usage)
        assert parser.format_help().startswith(usage)  # the help can be printed again


def test_the_usage_of_few_flags_names_them() -> None:
    parser = CommandParser(prog="few")
    parser.add_argument("-port", type=int)
    assert parser.format_help().startswith("usage: few [-h] [-port PORT]\n")
    assert isinstance(parser, argparse.ArgumentParser)
