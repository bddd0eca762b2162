"""Servers and commands whose flags come from variables and a file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bert_serving.client import BertClient
from servers import TINY, free_ports, serving


def test_a_server_and_a_client_take_variables_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "bert.toml"
    http_port = free_ports(1)[0]
    file.write_text(f"max_seq_len = 9\nmax_batch_size = 7\npooling_layer = [-1, -2]\nhttp_port = {http_port}\n")
    variables = {
        "BERT_SERVING_CONFIG_FILE": str(file),
        "BERT_SERVING_MAX_SEQ_LEN": "12",
        "BERT_SERVING_SHOW_TOKENS_TO_CLIENT": "true",
        "BERT_SERVING_PORT": "tcp://10.96.0.7:5555",  # the server's -port is on the command line
        "BERT_SERVING_JOIN_PORT": "tcp://10.96.0.8:5557",
        "BERT_SERVING_VERSION": "7",
    }
    with serving("-engine", "zeros", env=variables) as server:
        with BertClient(port=server.port, port_out=server.port_out, timeout=60_000) as client:
            config = client.server_config
        done = subprocess.run(
            [sys.executable, "-m", "bert_serving.client._cli.encode", "-"],
            input="hello\n",
            env={"BERT_SERVING_PORT": str(server.port), "BERT_SERVING_PORT_OUT": str(server.port_out), **paths()},
            capture_output=True,
            text=True,
            timeout=120,
        )
        log = server.log
    assert config["model_dir"] == str(TINY)
    assert (config["max_seq_len"], config["max_batch_size"], config["http_port"]) == (12, 7, http_port)
    assert config["pooling_layer"] == [-1, -2]
    assert config["show_tokens_to_client"] is True
    assert config["join_port"] is None
    for name in ("PORT=tcp://10.96.0.7:5555", "JOIN_PORT=tcp://10.96.0.8:5557"):
        assert f"BERT_SERVING_{name} is ignored: Kubernetes sets it" in log
    assert done.returncode == 0, done.stderr
    assert '"text": "hello"' in done.stdout
    assert "BERT_SERVING_VERSION" not in log


@pytest.mark.parametrize("flag", ["-print_config", "-check"])
def test_output_that_cannot_be_written_is_no_traceback(flag: str) -> None:
    command = [sys.executable, "-m", "bert_serving.server", "-model_dir", str(TINY), "-engine", "zeros", "-cpu", flag]
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe, open("/dev/full", "w") as full:
        runs = [subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True) for out in (pipe, full)]
        closed, no_space = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [1, 1]
    assert closed == ""
    assert no_space == "stdout does not take the output (No space left on device); free space, or redirect it\n"


def test_a_terminal_without_a_character_shows_its_escape() -> None:
    command = [sys.executable, "-m", "bert_serving.server", "-model_dir", "/tmp/\u00fc", "-print_config"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "/tmp/\\xfc " in done.stdout


def paths() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(filter(None, sys.path))}
