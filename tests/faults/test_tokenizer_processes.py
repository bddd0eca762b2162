"""Tokenizer processes: the same replies as without them, and no request is lost when they die or hang.

The servers have two models, whose texts the same processes tokenize.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from bert_serving.client import BertClient, BertServingError
from bert_serving.client.protocol import CANCEL
from fault_helpers import ThreadGroup, assert_true, connect, faulty, suspended, texts
from servers import TINY, Server, free_ports, wait_until
from version_1 import assert_serves_version_1

TOKENIZERS = ("tokenizer-0", "tokenizer-1")
#: JSON of the texts and options of requests, valid and invalid ones.
REQUESTS: list[tuple[bytes, dict[str, Any]]] = [
    (json.dumps(items).encode() if not isinstance(items, bytes) else items, options)
    for items, options in (
        (["hello world"], {}),
        (["hello", "", "the world ||| of hello", "\u00e9t\u00e9 \u4e2d\u6587"], {"num_tokens": True}),
        ([["hello", "world"], [], ["nonsense"]], {}),
        ([["hello"], "world"], {}),
        (["hello " * 60, "short"], {}),
        (["short", "hello " * 60], {"truncate": False}),
        (["hello"], {"prompt": "the world: ", "num_tokens": True}),
        ([["hello"]], {"prompt": "the world: "}),
        ([("hello", "world"), ("", "a ||| b")], {"pairs": True}),
        ([("hello " * 30, "world " * 30)], {"pairs": True, "truncate": False}),
        (["hello"], {"pairs": True}),
        (["a ||| b"], {"pairs": False}),
        (["hello"], {"dimensions": 4, "normalize": True}),
        (["short", "hello world. " * 300, ""], {"long": "mean", "num_tokens": True}),
        (["short", "hello world. " * 300, ""], {"long": "chunks", "prompt": "the: "}),
        ([each + " hello world." * 9 for each in texts(2500)], {"long": "mean"}),
        ([each + " hello world." * 9 for each in texts(2500)], {"long": "chunks"}),
        ([*texts(2500), "a ||| b"], {"long": "chunks"}),
        ([["hello"]] * 2500, {"long": "mean"}),
        ([], {}),
        ([1], {}),
        (b'["no end', {}),
        (b'["\\ud800 lone"]', {}),
        (["x" * 5001], {}),
        (["hello " + "world " * 1600] * 2, {}),
        (texts(5000), {"num_tokens": True}),
        ([*texts(3000), 7, *texts(3000)], {}),
        ([*texts(3000), "x" * 5001, *texts(3000)], {}),
        ([["hello", "world"]] * 5000, {}),
        ([("hello", "world")] * 5000, {"pairs": True}),
        (["hello"] * 20_001, {}),
        (json.dumps(texts(5000)).encode()[:-1], {}),
    )
]
HTTP_REQUESTS = [
    ("/encode", {"texts": ["hello world", "hello " * 60]}),
    ("/encode", {"texts": [["hello", "world"]], "is_tokenized": True}),
    ("/encode", {"texts": ["hello " * 60], "truncate": False}),
    ("/v1/embeddings", {"input": ["hello world"]}),
    ("/embed", {"inputs": ["hello", "world"]}),
    ("/embed", {"inputs": 5}),
]


@contextlib.contextmanager
def tokenizing(number: int, *args: str, engine: str = "sound") -> Iterator[tuple[Server, int]]:
    """Yields a server with ``number`` tokenizer processes, and its HTTP port."""
    (http_port,) = free_ports(1)
    options = ["-num_tokenizer", str(number), "-max_text_length", "5000", "-max_request_size", "20000"]
    tokens = ["-show_tokens_to_client", "-http_port", str(http_port)]
    with faulty(*options, *tokens, *args, "-model", f"other={TINY},max_seq_len=12", engine=engine) as server:
        yield server, http_port


@pytest.fixture(scope="module")
def plain() -> Iterator[tuple[Server, int]]:
    with tokenizing(0) as server:
        yield server


@pytest.fixture(scope="module")
def parallel() -> Iterator[tuple[Server, int]]:
    with tokenizing(2) as server:
        yield server


class Peer:
    """Sends the frames of requests, and receives those of the replies."""

    def __init__(self, server: Server, identity: bytes) -> None:
        self.identity, self.context = identity, zmq.Context()
        self.push, self.sub = self.context.socket(zmq.PUSH), self.context.socket(zmq.SUB)
        self.sub.setsockopt(zmq.SUBSCRIBE, identity)
        self.sub.connect(f"tcp://127.0.0.1:{server.port_out}")
        self.push.connect(f"tcp://127.0.0.1:{server.port}")

    def send(self, number: int, message: bytes, options: dict[str, Any]) -> None:
        self.push.send_multipart([self.identity, message, b"%d" % number, b"1", json.dumps(options).encode()])

    def receive(self) -> list[bytes]:
        assert self.sub.poll(60_000), "no reply"
        return self.sub.recv_multipart()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.context.destroy(linger=0)


def replies(server: Server, *, at_once: bool, model: str = "tiny", step: int = 1) -> dict[bytes, list[bytes]]:
    """Returns the frames of the reply to each ``step``-th request behind the topic, by request id."""
    found, requests = [], REQUESTS[::step]
    with Peer(server, b"peer") as peer:
        for number, (message, options) in enumerate(requests):
            peer.send(number, message, {**options, "model": model})
            if not at_once:
                found.append(peer.receive())
        while len(found) < len(requests):
            found.append(peer.receive())
    return {frames[-1]: frames[1:-1] for frames in found}


def queue(client: BertClient) -> dict[str, Any]:
    return client.server_status["queue"]  # type: ignore[no-any-return]


def test_replies_are_the_same_bytes(plain: tuple[Server, int], parallel: tuple[Server, int]) -> None:
    expected = replies(plain[0], at_once=False)
    assert len(expected) == len(REQUESTS)
    assert replies(parallel[0], at_once=False) == expected
    assert replies(parallel[0], at_once=True) == expected
    others = replies(plain[0], at_once=True, model="other", step=3)
    assert any(others[b"%d" % number] != expected[b"%d" % (3 * number)] for number in range(len(others)))
    assert replies(parallel[0], at_once=True, model="other", step=3) == others
    with connect(parallel[0]) as client:
        status = client.server_status
        assert sorted(each["name"] for each in status["tokenizers"]) == ["tokenizer-0.1", "tokenizer-1.1"]
        assert all(each["texts"] > 0 and each["busy_seconds"] > 0 for each in status["tokenizers"])
        assert status["queue"]["bytes"] == status["queue"]["requests"] == 0
    with connect(plain[0]) as client:
        assert client.server_status["tokenizers"] == []


def test_replies_of_http_are_the_same(plain: tuple[Server, int], parallel: tuple[Server, int]) -> None:
    import urllib.error
    import urllib.request

    def call(port: int, path: str, body: object) -> tuple[int, object]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, without_ids(json.loads(response.read()))
        except urllib.error.HTTPError as error:
            return error.code, without_ids(json.loads(error.read()))

    def without_ids(value: Any) -> Any:
        return {key: each for key, each in value.items() if key != "id"} if isinstance(value, dict) else value

    for path, body in HTTP_REQUESTS:
        assert call(parallel[1], path, body) == call(plain[1], path, body)


def test_no_request_is_lost_when_tokenizers_are_killed(parallel: tuple[Server, int]) -> None:
    server, _ = parallel
    with ThreadGroup() as threads, connect(server) as observer:
        done: list[int] = []
        before = observer.server_status["num_restarts"]

        def load(index: int) -> None:
            with connect(server, model=("tiny", "other")[index % 2], check_length=False) as client:
                number = 0
                while not threads.stopped.is_set():
                    # Both short requests and large ones, with texts of their own.
                    mine = texts(1 if number % 5 else 3000, 1_000_000 * index + 3000 * number)
                    assert_true(client.encode(mine), mine)
                    done.append(index)
                    number += 1

        for index in range(4):
            threads.start(load, index)
        for kill in range(3):
            wait_until(lambda kill=kill: len(done) > 40 * (kill + 1) or not threads.is_busy(), what="answers")  # type: ignore[misc]
            for name in TOKENIZERS[: kill + 1]:
                server.child(name).kill()
            deaths = before + (1, 3, 5)[kill]

            def is_whole(deaths: int = deaths) -> bool:
                status = observer.server_status
                known = (status["state"], status["num_restarts"], len(status["tokenizers"]))
                return known == ("ready", deaths, 2)

            wait_until(is_whole, what="both processes to be up")
        seen = len(done)
        wait_until(lambda: len(done) > seen + 20 or not threads.is_busy(), what="answers")
        threads.stopped.set()
        threads.join(60)
        wait_until(lambda: queue(observer)["requests"] == 0, what="an empty queue")
        assert queue(observer)["bytes"] == 0
        assert observer.server_status["restarts"]["tokenizer"] == before + 5


def test_requests_that_tokenizers_hold_can_be_cancelled(parallel: tuple[Server, int]) -> None:
    server, _ = parallel
    with connect(server) as observer, Peer(server, b"cancels") as peer, contextlib.ExitStack() as stack:
        for name in TOKENIZERS:
            stack.enter_context(suspended(server.child(name)))
        wait_until(lambda: queue(observer)["bytes"] == 0, what="an empty queue")
        for number in range(1, 60):
            peer.send(number, json.dumps(texts(3000 if number % 10 == 0 else 1)).encode(), {})
        wait_until(lambda: queue(observer)["requests"] == 59, what="the requests")
        assert queue(observer)["bytes"] > 5 * 3000 * len(texts(1)[0])
        peer.send(99, CANCEL, {"requests": list(range(1, 60))})
        wait_until(lambda: queue(observer)["requests"] == 0, what="the end of the requests")
    with connect(server) as observer:
        assert_true(observer.encode(texts(2)), texts(2))
        wait_until(lambda: queue(observer)["bytes"] == 0, what="free memory")


def test_cost_of_the_front_is_measured(parallel: tuple[Server, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmark"))
    import front_cost

    server, _ = parallel
    connection = {"port": server.port, "port_out": server.port_out, "check_length": False}
    found = front_cost.measure(server.process.pid, connection, clients=2, size=1, seconds=0.3)
    assert found["rate"] > 0
    assert all(found[name] > 0 for name in ("ventilator", "clients"))
    cells = front_cost.row("two clients", [found, {**found, "rate": 2 * found["rate"]}]).split("|")[1:-1]
    assert cells[0].strip() == "two clients"
    assert len(cells) == 2 + len(front_cost.ROLES) + 2


@pytest.mark.minutes
def test_a_tokenizer_that_hangs_is_replaced() -> None:
    with tokenizing(2, "-heartbeat_timeout", "4") as (server, _), connect(server) as client, connect(server) as other:
        with suspended(server.child("tokenizer-0")), ThreadGroup() as threads:
            sentences = texts(20_000)
            threads.start(lambda: assert_true(client.encode(sentences, batch_size=None), sentences))
            for number in range(30):  # the other process serves, and gets the texts that the first holds
                assert_true(other.encode(texts(1, number)), texts(1, number))
            threads.join(60)
            wait_until(lambda: "killing tokenizer-0: no heartbeat" in server.log, what="the end of the process")
        wait_until(lambda: len(other.server_status["tokenizers"]) == 2, what="the new process")


@pytest.mark.minutes
def test_requests_that_wait_for_tokenizers_take_limited_memory() -> None:
    limit = 4 * 2**20
    options = ("-queue_memory", str(limit), "-heartbeat_timeout", "120")
    with tokenizing(2, *options) as (server, _):
        message = json.dumps(texts(3000)).encode()
        number = 3 * limit // len(message)

        def is_full() -> bool:
            # A connection that was made before the server was full gets no answer meanwhile.
            with contextlib.suppress(BertServingError), connect(server, timeout=1000) as client:
                held: int = queue(client)["bytes"]
                assert held < limit + 3 * len(message)
                return held >= limit
            return False

        with Peer(server, b"fills") as peer:
            with contextlib.ExitStack() as stack:
                for name in TOKENIZERS:
                    stack.enter_context(suspended(server.child(name)))
                for each in range(1, number + 1):
                    peer.send(each, message, {})
                wait_until(is_full, what="a full queue")
            ids = {frames[-1] for frames in (peer.receive() for _ in range(number))}
            assert ids == {b"%d" % each for each in range(1, number + 1)}
        with connect(server) as observer:
            wait_until(lambda: queue(observer)["bytes"] == 0, what="free memory")


@pytest.mark.minutes
@pytest.mark.parametrize("role", ["ventilator", "sink"])
def test_requests_survive_the_death_of_another_process(role: str) -> None:
    with tokenizing(2) as (server, _), connect(server) as client, connect(server) as observer, ThreadGroup() as threads:
        done: list[int] = []

        def load() -> None:
            for number in range(200):
                mine = texts(1 if number % 5 else 3000, 3000 * number)
                assert_true(client.encode(mine), mine)
                done.append(number)

        threads.start(load)
        for kill in range(3):
            wait_until(lambda kill=kill: len(done) > 10 * (kill + 1) or not threads.is_busy(), what="answers")  # type: ignore[misc]
            server.child(role).kill()
            wait_until(
                lambda kill=kill: (
                    (status := observer.server_status)["state"] == "ready"  # type: ignore[misc]
                    and status["num_restarts"] == kill + 1
                    and len(status["tokenizers"]) == 2
                ),
                60,
                "all processes to be up",
            )
        threads.join(120)


def test_a_client_of_1_10(parallel: tuple[Server, int]) -> None:
    assert_serves_version_1(parallel[0])
