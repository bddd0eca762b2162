"""Servers and commands whose flags come from variables and a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


def paths() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(filter(None, sys.path))}
