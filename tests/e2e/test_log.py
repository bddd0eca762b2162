"""What the server writes to its log: the lines that users of 1.10.0 look for, and what -verbose adds."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from datetime import datetime

import pytest
import zmq

from bert_serving.client import BertClient
from bert_serving.server.version import __version__
from servers import ENGINE, READY_LINE, TINY, TINY_TUNED, Server, free_ports, serving, wait_until

LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [IWED]:[A-Z0-9-]+:\[\w{2,3}:\w{2,3}: *\d+\]:.*")


def connect(server: Server) -> BertClient:
    return BertClient(port=server.port, port_out=server.port_out, timeout=60_000)


def test_lines_that_users_know() -> None:
    tuned = ["-tuned_model_dir", str(TINY_TUNED), "-ckpt_name", "model.ckpt-343", "-pooling_strategy", "REDUCE_MAX"]
    with serving(*tuned) as server:
        port, port_out = server.port, server.port_out
    log = server.log  # at the end: a process may report that it is ready before it logs the same
    assert f"checkpoint (override by the fine-tuned model): {TINY_TUNED}/model.ckpt-343" in log
    assert f"model config: {TINY}/bert_config.json" in log
    for words in (
        "bind all sockets",
        "ready and listening!",
        "all set, ready to serve request!",
        "device map",
        "ready",
        f"{TINY} has no modules.json, so the defaults of 1.10 count: -pooling_layer -2 -max_seq_len 25; a sentence-emb",
    ):
        assert words in log
    for context in ("VENTILATOR", "SINK", "WORKER-0", "GRAPHOPT"):
        assert re.search(rf" I:{context}:\[", log)
    assert re.search(
        r" W:[A-Z]+:\[.*\]:.*/model.ckpt-343: the tensors output_bias, output_weights are not served: vec", log
    )
    assert log.startswith("usage: bert-serving-start")
    assert re.search(r"^ *ARG   VALUE$", log, re.M)
    settings = re.findall(r"^ *(\w+) = (.*)$", log.split("\n\n")[0], re.M)
    assert ("pooling_strategy", "REDUCE_MAX") in settings
    assert sorted(name for name, _ in settings) == [
        "ckpt_name", "cpu", "engine", "model_dir", "pooling_strategy", "port", "port_out", "tuned_model_dir",
    ], "only what differs from the default"  # fmt: skip
    for words in (
        f"bert-serving-server {__version__} on Python ",
        f"model: {TINY} (Google checkpoint)",
        "encoder: BERT, ",
        "pooling: maximum of the tokens, REDUCE_MAX of layer -2",
        "vectors: 32 dimensions per text",
        "longest text: 25 tokens, longer ones are truncated; prompt: none",
        "drift: not observed (-drift_reference)",
        f"workers: 1, engine {ENGINE}, fp32, on cpu",
        "memory: weights of ",
    ):
        assert f"]:{words}" in log
    assert re.search(r"\]:vector space: [0-9a-f]{16}; vectors of other spaces are not comparable$", log, re.M)
    (call,) = re.findall(r'try: python -c "(.*)"$', log, re.M)
    assert f"BertClient(port={port}, port_out={port_out}).encode(['hello world'])" in call
    assert log.index("try: python") < log.index(READY_LINE)
    lines = [line for line in log.split("\n\n", 1)[1].splitlines() if not line.startswith("\t")]
    assert all(LINE.match(line) for line in lines), [line for line in lines if not LINE.match(line)]


def test_verbose_shows_what_the_model_receives() -> None:
    with serving("-verbose") as server, connect(server) as client:
        client.encode(["hey you", "whats up?", "你好么?", "hello world ||| good day"])
    log = server.log
    assert "tokens: [CLS] hey you [SEP]" in log
    assert "tokens: [CLS] what ##s up ? [SEP]" in log
    assert "tokens: [CLS] 你 好 么 ? [SEP]" in log
    assert re.search(r"input_ids: 2 (\d+) (\d+) 3\n", log), "the padding is left out"
    assert re.search(r"input_mask: 1 1 1 1\n", log)
    assert re.search(r"input_type_ids: 0 0 0 0 1 1 1\n", log)
    assert re.search(r"^ *pooling_strategy = REDUCE_MEAN$", log, re.M), "all options are shown"
    assert "new encode request\treq id: " in log
    for context in ("SUPERVISOR", "VENTILATOR", "SINK", "WORKER-0"):
        steps = r"\d+\.\d\d s, \d+\.\d\d s of processor time: interpreter and imports \d+\.\d\d s, "
        assert re.search(rf" D:{context}:\[.*\]:start took {steps}", log), context


def test_json_lines_and_requests() -> None:
    http_port = free_ports(1)[0]
    options = ["-log_format", "json", "-log_level", "request", "-engine", "zeros", "-http_port", str(http_port)]
    with serving(*options) as server, connect(server) as client:
        client.encode(["hello world"])
        wait_until(lambda: "send back" in server.log, what="the line of the request")
        lines = [json.loads(line) for line in server.log.splitlines()]
    for line in lines:
        assert line.keys() == {"time", "level", "part", "message"}
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
        assert line["level"] in ("request", "info", "warning")
    messages = [(line["part"], line["level"], line["message"]) for line in lines]
    assert messages[0][:2] == ("SUPERVISOR", "info")
    assert messages[0][2].startswith("usage: bert-serving-start ")
    assert "engine = zeros" in messages[1][2]
    assert ("VENTILATOR", "info", READY_LINE) in messages
    url = f"http://localhost:{http_port}"
    assert ("SUPERVISOR", "info", f"API page: {url}/docs  dashboard: {url}/dashboard") in messages
    assert any(part == "VENTILATOR" and "new encode request" in text for part, _, text in messages)
    assert not any("input_ids" in text for _, _, text in messages)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
@pytest.mark.parametrize(
    ("options", "variables", "has_colors"), [([], {}, True), (["-log_level", "quiet"], {"NO_COLOR": "1"}, False)]
)
def test_warnings_and_errors_on_a_terminal(options: list[str], variables: dict[str, str], has_colors: bool) -> None:
    reader, terminal = os.openpty()
    removed = ("NO_COLOR", "FORCE_COLOR", "ANSI_COLORS_DISABLED")
    env = {name: value for name, value in os.environ.items() if name not in removed}
    env |= {"TERM": "xterm", "BERT_SERVING_JOIN_PORT": "tcp://10.0.0.1:5557", **variables}
    command = [sys.executable, "-m", "bert_serving.server", "-model_dir", "/no/such", *options]
    port, port_out = map(str, free_ports())
    ports = ["-port", port, "-port_out", port_out]
    with open(terminal, "wb") as stderr:
        process = subprocess.Popen([*command, *ports], stderr=stderr, stdout=subprocess.DEVNULL, env=env)
    written = b""
    with open(reader, "rb", buffering=0) as terminal_output, contextlib.suppress(OSError):  # EIO ends it
        while data := terminal_output.read(65536):
            written += data
    assert process.wait(60) == 3
    lines = written.decode().splitlines()
    warning = next(line for line in lines if "BERT_SERVING_JOIN_PORT" in line)
    error = next(line for line in lines if "/no/such" in line and "usage" not in line and "model_dir =" not in line)
    if has_colors:
        assert "\x1b[33mW\x1b[0m:" in warning
        assert "\x1b[33mBERT_SERVING_JOIN_PORT=" in warning
        assert "\x1b[31mE\x1b[0m:" in error
        assert "\x1b[34m" not in written.decode(), "dark blue is hard to read on black"
    else:
        assert "\x1b" not in written.decode()
        assert all(re.search(r" [WE]:SUPERVISOR:", line) for line in lines), "quiet: warnings and errors only"


def test_requests_are_not_logged_otherwise() -> None:
    with serving() as server, connect(server) as client:
        client.encode(["hello"])  # the ventilator may log the registration of the worker until then
        before = server.log
        client.encode(["hey you"])
        assert client.server_status
        assert server.log == before


def test_a_client_cannot_forge_log_lines(server: Server) -> None:
    hostile = "\x1b[2J\n2026-01-01 00:00:00.000 I:SINK:[sin:run:  1]:forged\x85\u2028"
    raw = hostile.encode()
    before = len(server.log)
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.setsockopt(zmq.LINGER, 5000)
        push.connect(f"tcp://127.0.0.1:{server.port}")
        texts = b'["hello"]'
        push.send_multipart([b"x", texts, b"1", b"1", json.dumps({hostile: True}).encode()])
        push.send_multipart([b"x", texts, b"1", b"1", json.dumps({hostile: True}, ensure_ascii=False).encode()])
        push.send_multipart([b"x", texts, b"1", b"1", raw])
        push.send_multipart([raw, json.dumps({hostile: 1}).encode(), b"1", b"1"])
        push.send_multipart([raw, raw, b"1", b"1"])
        push.send_multipart([b"x", texts, raw, b"1"])
        push.send_multipart([b"x", texts, b"1", b"1", json.dumps({60_000 * "k": True}).encode()])
        push.send_multipart([b"last", b"[]", b"1", b"1"])
        wait_until(lambda: "client b'last'" in server.log, what="the messages to be rejected")
    lines = server.log[before:].rstrip("\n").split("\n")
    assert len(lines) >= 8
    assert max(map(len, lines)) < 2000
    assert all(LINE.match(line) and line.isprintable() for line in lines), lines
    assert not any(line.startswith("2026-01-01") for line in lines)
