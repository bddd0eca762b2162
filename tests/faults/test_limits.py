"""Each limit raises an error that names it, and does not affect other clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import zmq

from bert_serving.client import BertClient
from bert_serving.client.errors import TooLargeError
from fault_helpers import Raw, assert_true, connect, faulty, memory, texts
from servers import Server, serving, wait_until


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    limits = ["-max_request_size", "500", "-max_text_length", "1000", "-max_message_bytes", "100000"]
    with faulty(*limits) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[BertClient]:
    with connect(server) as client:
        restarts = client.server_status["num_restarts"]
        yield client
        assert_true(client.encode(texts(10)), texts(10))
        assert client.server_status["num_restarts"] == restarts


def test_too_many_texts(client: BertClient) -> None:
    with pytest.raises(TooLargeError, match=r"501 texts .* limit is 500 \(-max_request_size\)"):
        client.encode(["hello"] * 501, batch_size=None)
    assert client.encode(["hello"] * 501, batch_size=500).shape == (501, 32)


@pytest.mark.parametrize("filling", [0, 200])
def test_a_text_that_is_too_long(client: BertClient, filling: int) -> None:
    with pytest.raises(TooLargeError, match=r"text 1 has 1001 characters; the limit is 1000 \(-max_text_length\)"):
        client.encode(["hello", "x" * 1001, *["hello world and more of it"] * filling])
    with pytest.raises(TooLargeError, match="1001 tokens"):
        client.encode([["hello"], ["hello"] * 1001], is_tokenized=True)


def test_a_message_that_is_too_large(server: Server, client: BertClient) -> None:
    large = ["hello world " * 80] * 200
    with pytest.raises(TooLargeError, match=r"100000 \(-max_message_bytes\)"):
        client.encode(large, batch_size=None)
    with Raw(server, b"old client") as raw:  # which does not know the limit: the server says it
        raw.send(large)
        _, info, _ = raw.receive()
        assert info["error"]["type"] == "too_large"  # type: ignore[index]
        assert "100000 (-max_message_bytes)" in info["error"]["message"]  # type: ignore[index]


def test_a_message_far_beyond_the_limit_costs_its_sender_the_connection(server: Server, client: BertClient) -> None:
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.setsockopt(zmq.LINGER, 0)
        monitor = push.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        push.connect(f"tcp://127.0.0.1:{server.port}")
        before = memory(server)["ventilator"]
        push.send_multipart([b"giant", b"x" * 80_000_000, b"1", b"1"])
        assert monitor.poll(60_000), "the connection is still there"
        assert memory(server)["ventilator"] < before + 20_000_000
        push.disable_monitor()
        monitor.close(linger=0)


def test_a_small_queue_is_full_and_everything_is_answered() -> None:
    with faulty("-max_queue_tokens", "2000", "-max_batch_size", "16", engine="steady") as server:
        clients = [Raw(server, b"client %d" % index) for index in range(4)]
        for round_ in range(60):
            for client in clients:
                client.send(texts(50, round_ * 50))
        for client in clients:
            seen = set()
            for _ in range(60):
                request_id, _, vectors = client.receive()
                assert vectors is not None
                first = 50 * (int(request_id) - 1)
                assert_true(vectors, texts(50, first))
                seen.add(request_id)
            assert len(seen) == 60
            client.close()
        assert "Traceback" not in server.log


@pytest.mark.parametrize("width", ["64", "NONE"])
def test_an_answer_that_would_be_too_large_is_refused_before_it_is_computed(width: str) -> None:
    """Without pooling, the result has a thousand times the bytes of the text."""
    most = 4 * 2**20
    options = ["-pooling_strategy", "NONE", "-max_seq_len", width, "-result_memory", str(most)]
    with serving("-engine", "zeros", *options) as server, connect(server) as client:
        long = "hello " * 62
        fits = most // (64 * 32 * 4)
        assert client.encode([long] * fits, batch_size=None).shape == (fits, 64, 32)
        for count in (fits + 1, 200_000):  # the long one is in the last part of the request
            sentences = ["hello"] * (count - 1) + [long]
            why = rf"{count} texts of .* tokens each would take .* limit is {most} \(-result_memory\): send fewer"
            with pytest.raises(TooLargeError, match=why):
                client.encode(sentences, batch_size=None)
        assert client.encode(["hello"] * 10).shape[0] == 10
        assert client.server_status["num_restarts"] == 0
        # It hears of the last answer a moment after the client.
        wait_until(lambda: client.server_status["queue"]["requests"] == 0, what="the queue to be empty")


@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_AS"), reason="limits on the memory of another process are Linux's")
def test_a_result_that_does_not_fit_into_memory_is_an_error() -> None:
    """The memory of the sink is limited to slightly more than it uses."""
    with (
        serving("-engine", "zeros", "-pooling_strategy", "NONE", "-max_seq_len", "64") as server,
        connect(server) as client,
    ):
        client.encode(["hello"] * 100)
        sink = server.child("sink")
        sink.rlimit(psutil.RLIMIT_AS, (sink.memory_info().vms + 200 * 2**20,) * 2)
        with pytest.raises(TooLargeError, match="no memory for the vectors of 100000 texts: send fewer texts"):
            client.encode(["hello"] * 100_000, batch_size=None)
        assert client.encode(["hello"] * 100).shape == (100, 64, 32)
        assert client.server_status["num_restarts"] == 0


NOT_TEXTS = [
    b"[" * 1_000_000,
    b"[[" * 5000 + b"]]" * 5000,
    b'{"a":' * 20_000,
    b"[" + b"9" * 1_000_000 + b"]",
    b"[NaN]",
    b"[1e999]",
    b'["a",' * 3,
    b"\xef\xbb\xbf[]",
    b'["\\ud800"',
    b"[" + b'"a",' * 100_000 + b"1]",
    b'[["hello", NaN]]',
    b'[["hello", null]]',
]


def test_huge_words_and_deep_nesting() -> None:
    with faulty() as server, connect(server, check_length=False) as client:
        assert client.encode(["x" * 1_000_000, "hello", "\0", "\ud800 hello", "a b " * 200_000]).shape == (5, 32)
        with pytest.raises(TooLargeError, match="10000000 characters"):
            client.encode(["x" * 10_000_000])
        with Raw(server, b"raw") as raw:
            for number, message in enumerate(NOT_TEXTS):
                raw.push.send_multipart([b"raw", message, b"%d" % number, b"1"])
                request_id, info, _ = raw.receive()
                assert request_id == b"%d" % number
                assert info["error"]["type"] == "invalid_request", message[:20]  # type: ignore[index]
        assert client.server_status["num_restarts"] == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to tell the peak of memory")
def test_lists_cost_no_more_than_their_message() -> None:
    """An empty list has two bytes of JSON and sixty bytes of memory, so the server counts lists before it parses."""
    count = 8_000_000
    bombs = [
        (b"[" + b"[]," * count + b"[]]", "too_large", f"{count + 1} texts in one request"),
        (b'["a",' + b"[]," * count + b"[]]", "too_large", f"{count + 1} texts in one request"),
        (b"[" + b"{}," * count + b"{}]", "invalid_request", "byte 1 of the message begins"),
        (b'["a",' + b"1," * count + b"1]", "invalid_request", "byte 5 of the message begins"),
        (b'[["a"]' + b',["a",1]' * 300_000 + b"]", "invalid_request", "byte 12 of the message begins"),
        (b'[["' + b'","' * count + b'"]]', "too_large", "4000000 (-max_queue_tokens)"),
        (b"[" * count, "too_large", f"{count - 1} texts in one request"),
    ]
    with (
        faulty("-max_queue_tokens", "4000000") as server,
        connect(server) as other,
        Raw(server, b"bomber") as raw,
    ):
        before = memory(server)["ventilator"]
        for number, (bomb, kind, message) in enumerate(bombs):
            raw.push.send_multipart([b"bomber", bomb, b"%d" % number, b"1"])
            assert_true(other.encode(texts(10)), texts(10))
            _, info, _ = raw.receive()
            assert info["error"]["type"] == kind, bomb[:20]  # type: ignore[index]
            assert message in info["error"]["message"]  # type: ignore[index]
        # The message itself is there a few times for a moment; its lists alone would be 21 times as much.
        assert peak_memory(server.child("ventilator").pid) < before + 8 * len(bombs[0][0])
        assert other.server_status["num_restarts"] == 0


def peak_memory(pid: int) -> int:
    """Returns the peak resident memory of a process in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])
