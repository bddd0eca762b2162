"""What the server writes to its log: the lines that users of 1.10.0 look for, and what -verbose adds."""

from __future__ import annotations

import json
import re

import zmq

from bert_serving.client import BertClient
from servers import TINY, TINY_TUNED, Server, serving, wait_until

LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [IWED]:[A-Z0-9-]+:\[\w{2,3}:\w{2,3}: *\d+\]:.*")


def connect(server: Server) -> BertClient:
    return BertClient(port=server.port, port_out=server.port_out, timeout=60_000)


def test_lines_that_users_know() -> None:
    with serving("-tuned_model_dir", str(TINY_TUNED), "-ckpt_name", "model.ckpt-343") as server:
        log = server.log
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
    assert log.startswith("usage: bert-serving-start")
    assert re.search(r"^ *ARG   VALUE$", log, re.M)
    assert re.search(r"^ *pooling_strategy = REDUCE_MEAN$", log, re.M)
    lines = [line for line in log.split("\n\n", 1)[1].splitlines() if not line.startswith("\t")]
    assert all(LINE.match(line) for line in lines), [line for line in lines if not LINE.match(line)]


def test_verbose_shows_what_the_model_receives() -> None:
    with serving("-verbose") as server, connect(server) as client:
        client.encode(["hey you", "whats up?", "你好么?", "hello world ||| good day"])
        log = server.log
    assert "tokens: [CLS] hey you [SEP]" in log
    assert "tokens: [CLS] what ##s up ? [SEP]" in log
    assert "tokens: [CLS] 你 好 么 ? [SEP]" in log
    first = re.search(r"input_ids: 2 (\d+) (\d+) 3 ([0 ]+)\n", log)
    assert first
    assert len(first[0].split()) == 1 + 25
    assert re.search(r"input_mask: 1 1 1 1 0 [0 ]+\n", log)
    assert re.search(r"input_type_ids: 0 0 0 0 1 1 1 0 [0 ]+\n", log)
    assert "new encode request\treq id: " in log


def test_requests_are_not_logged_otherwise() -> None:
    with serving() as server, connect(server) as client:
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
