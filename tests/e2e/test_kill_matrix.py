"""Messages that killed the original, each sent over a raw socket: the service goes on, and who can be answered is."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import zmq

from preparation import prepare
from servers import ENGINE, TINY, Server, serving

LONG = ["a good day"] * 600


@dataclass
class Raw:
    """A client without a client library."""

    server: Server

    def __post_init__(self) -> None:
        self.mark = secrets.token_hex(4).encode()
        self.context = zmq.Context()
        self.context.setsockopt(zmq.LINGER, 0)
        self.push = self.context.socket(zmq.PUSH)
        self.push.connect(f"tcp://127.0.0.1:{self.server.port}")
        self.subs: dict[bytes, zmq.Socket[bytes]] = {}

    def subscribe(self, identity: bytes) -> zmq.Socket[bytes]:
        """Returns the socket of an identity; replies go to the sockets that are subscribed when they are ready."""
        if identity not in self.subs:
            sub = self.subs[identity] = self.context.socket(zmq.SUB)
            sub.setsockopt(zmq.SUBSCRIBE, identity)
            sub.connect(f"tcp://127.0.0.1:{self.server.port_out}")
        return self.subs[identity]

    def ask(self, identity: bytes, message: bytes, request_id: bytes = b"1", num: bytes = b"1") -> list[bytes]:
        sub = self.subscribe(identity)
        self.push.send_multipart([identity, message, request_id, num])
        return self.answer(sub)

    def answer(self, sub: zmq.Socket[bytes], seconds: float = 60) -> list[bytes]:
        assert sub.poll(seconds * 1000), f"no answer\n{self.server.log}"
        return sub.recv_multipart()

    def num_restarts(self) -> int:
        # An identity of its own: an answer to one whose last socket was closed just now may go there.
        status: dict[str, int] = json.loads(self.ask(b"a counter " + self.mark, b"SHOW_STATUS", b"8")[1])
        return status["num_restarts"]

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture(scope="module")
def one_worker() -> Iterator[Server]:
    with serving("-num_worker", "1", "-max_batch_size", "256") as server:
        yield server


@pytest.fixture
def raw(one_worker: Server) -> Iterator[Raw]:
    client = Raw(one_worker)
    try:
        restarts = client.num_restarts()
        yield client
        # Other clients are still served, by the same processes as before.
        frames = client.ask(b"a bystander " + client.mark, json.dumps(["hello world"]).encode(), b"7")
        assert json.loads(frames[1])["shape"] == [1, 32]
        assert client.num_restarts() == restarts
    finally:
        client.close()


def is_error(frames: list[bytes], kind: str, *words: str) -> None:
    info = json.loads(frames[1])
    assert info["error"]["type"] == kind
    for word in words:
        assert word in info["error"]["message"]
    with pytest.raises(TypeError):
        np.dtype(info["dtype"])  # what makes the 1.10.0 client raise a readable exception


@pytest.mark.parametrize(
    "identity", [b"with#hash", b"with@at", b"#", b"\xff\xfe\x00binary", "日本".encode(), b"x" * 255]
)
def test_any_identity_is_served(raw: Raw, identity: bytes) -> None:
    frames = raw.ask(identity, json.dumps(["hello world"]).encode())
    assert frames[0].startswith(identity)
    assert json.loads(frames[1])["shape"] == [1, 32]
    assert "server_version" in json.loads(raw.ask(identity, b"SHOW_CONFIG", b"2")[1])


def test_two_requests_with_one_identity_and_id(raw: Raw) -> None:
    sub = raw.subscribe(b"twins")
    for size in (2, 600, 1):
        raw.push.send_multipart([b"twins", json.dumps(["good day"] * size).encode(), b"1", b"%d" % size])
    shapes = sorted(json.loads(raw.answer(sub)[1])["shape"][0] for _ in range(3))
    assert shapes == [1, 2, 600]


@pytest.mark.parametrize("declared", [b"1", b"0", b"513", b"99999999"])
def test_a_wrong_number_of_texts_is_not_believed(raw: Raw, declared: bytes) -> None:
    for texts in (["a", "b", "c"], LONG):
        frames = raw.ask(b"liar", json.dumps(texts).encode(), b"1", declared)
        assert json.loads(frames[1])["shape"] == [len(texts), 32]


@pytest.mark.parametrize(
    "message",
    [b"{", b"not json", b"", b'"text"', b"5", b"null", b'{"a": 1}', b"\xff\xfe", b"[" * 100_000, b'["a"' + b" " * 9000],
)
@pytest.mark.parametrize("num", [b"1", b"513"])
def test_what_is_not_a_list_of_texts_is_refused(raw: Raw, message: bytes, num: bytes) -> None:
    is_error(raw.ask(b"sloppy " + raw.mark, message, b"3", num), "invalid_request")


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([1], "item 0"),
        (["a", 2], "item 1"),
        (["a", ["b"]], "item 1"),
        ([["a"], "b"], "item 1"),
        ([["a"], [3]], "item 1"),
        (["a", None], "item 1"),
        ([{"a": 1}], "item 0"),
        ([True], "item 0"),
    ],
)
def test_a_wrong_item_is_named(raw: Raw, texts: list[object], words: str) -> None:
    is_error(raw.ask(b"mixed " + raw.mark, json.dumps(texts).encode()), "invalid_request", words)
    is_error(raw.ask(b"mixed " + raw.mark, json.dumps([*texts, "x" * 10_000]).encode()), "invalid_request", words)


def test_an_empty_list_is_refused(raw: Raw) -> None:
    is_error(raw.ask(b"nothing", b"[]", b"1", b"0"), "invalid_request", "empty")


@pytest.mark.parametrize("texts", [[""], ["", "hello"], [" ", "\t\n"], [[]], [["hello"], []]])
def test_blank_texts_have_vectors_too(raw: Raw, texts: list[object]) -> None:
    frames = raw.ask(b"blank " + raw.mark, json.dumps(texts).encode())
    assert json.loads(frames[1])["shape"] == [len(texts), 32]
    assert np.isfinite(np.frombuffer(frames[2], np.float32)).all()


def test_a_bad_request_id_is_answered_with_itself(raw: Raw) -> None:
    for bad in (b"abc", b"-1", b"1.5", b"9" * 50):
        frames = raw.ask(b"no number " + raw.mark, b'["hello"]', bad)
        is_error(frames, "invalid_request", "request id")
        assert bad.startswith(frames[-1])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_a_wrong_number_of_frames_is_survived(raw: Raw, count: int) -> None:
    raw.push.send_multipart([b"frames", b'["hello"]', b"1", b"1", b"x", b"y", b"z", b"1", b"2"][:count])


@pytest.mark.parametrize("command", [b"REGISTER", b"TOKENS", b"EMBEDDINGS", b"SHOW_CONFIG ", b"show_config"])
def test_words_of_the_inner_protocol_mean_nothing(raw: Raw, command: bytes) -> None:
    is_error(raw.ask(b"insider " + raw.mark, command), "invalid_request")


def test_long_plain_text_with_no_special_token() -> None:
    with serving("-no_special_token", "-max_seq_len", "12") as server:
        client = Raw(server)
        frames = client.ask(b"long", json.dumps(["good day " * 50]).encode())
        info = json.loads(frames[1])
        assert info["shape"] == [1, 32]
        assert info["num_truncated"] == 1
        assert info["truncated"] == [0]
        client.close()


@pytest.mark.parametrize("strategy", ["LAST_TOKEN", "REDUCE_MAX", "REDUCE_MEAN_MAX", "NONE"])
def test_blank_text_with_everything_masked(strategy: str, tmp_path: Path) -> None:
    args = ["-mask_cls_sep", "-pooling_strategy", strategy, "-engine", ENGINE]
    prepare(*args, model_dir=TINY, cache=tmp_path)
    with serving(*args, "-graph_tmp_dir", tmp_path) as server:
        client = Raw(server)
        frames = client.ask(b"masked", json.dumps([" ", "hello world"]).encode())
        assert json.loads(frames[1])["shape"][0] == 2
        assert np.isfinite(np.frombuffer(frames[2], np.float32)).all()
        client.close()


def test_an_identity_that_is_too_long_is_dropped(raw: Raw) -> None:
    raw.push.send_multipart([b"x" * 256, b'["hello"]', b"1", b"1"])
    raw.push.send_multipart([b"x" * 100_000, b"SHOW_CONFIG", b"1", b"1"])


def test_surrogates_and_nul_bytes(raw: Raw) -> None:
    frames = raw.ask(b"odd", b'["hello \\ud83d world", "nul \\u0000 byte", "\\udfff"]')
    assert json.loads(frames[1])["shape"] == [3, 32]
