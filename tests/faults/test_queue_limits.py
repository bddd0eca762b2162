"""A full queue, requests that wait in memory, and large messages: other clients get their replies."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Iterator

import pytest
from test_hostile import handshake
from test_limits import peak_memory

from bert_serving.client import BertClient, BertServingError
from bert_serving.server.ipc.frame_memory import small_blocks
from fault_helpers import Raw, ThreadGroup, assert_true, connect, faulty, memory, suspended, text, texts
from servers import Server, wait_until

MIB = 2**20
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and bytes of TCP connections")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with faulty("-heartbeat_timeout", "100", engine="sound") as server:
        yield server


@pytest.fixture
def other(server: Server) -> Iterator[BertClient]:
    """A client beside the one of the test; no process is restarted meanwhile."""
    with connect(server) as client:
        assert_true(client.encode(texts(3)), texts(3))
        yield client
        assert_true(client.encode(texts(10)), texts(10))
        assert client.server_status["num_restarts"] == 0


@pytest.mark.parametrize("sizes", [[4000], [50] * 80])
def test_a_queue_that_is_full_of_tokens_still_answers_status(sizes: list[int]) -> None:
    """Requests above the limit wait as text, and all of them get their vectors in the end."""
    limit = 20_000
    with (
        faulty("-max_queue_tokens", str(limit), "-heartbeat_timeout", "100", engine="sound") as server,
        Raw(server, b"large") as raw,
    ):
        with connect(server) as client:
            client.encode(texts(3))
        with suspended(server.child("worker-0")):
            for size in sizes:
                raw.send(texts(size))
            raw.send(texts(2))
            for _ in range(3):
                with connect(server) as late:
                    wait_until(lambda late=late: late.server_status["queue"]["requests"] == len(sizes) + 1)  # type: ignore[misc]
                    queue = late.server_status["queue"]
                    assert queue["tokens"] <= limit + 2048 * 8  # the limit and a chunk
                    assert queue["bytes"] > 20_000
        for _ in range(len(sizes) + 1):
            request_id, _, vectors = raw.receive()
            expected = [*sizes, 2][int(request_id) - 1]
            assert vectors is not None
            assert_true(vectors, texts(expected))


@linux_only
def test_requests_that_wait_take_limited_memory() -> None:
    """A short text costs two thousand times more memory than its two tokens suggest."""
    limit, count = 16 * MIB, 15_000
    with (
        faulty("-queue_memory", str(limit), "-heartbeat_timeout", "100", engine="sound") as server,
        Raw(server, b"short") as raw,
        connect(server) as other,
    ):
        other.encode(texts(3))
        ventilator = server.child("ventilator").pid
        before = memory(server)["ventilator"]
        with suspended(server.child("worker-0")):
            for _ in range(1000):
                raw.send([""])
            wait_until(lambda: other.server_status["queue"]["requests"] == 1000)
            queue = other.server_status["queue"]
            assert queue["max_bytes"] == limit
            growth = memory(server)["ventilator"] - before
            assert growth / 2 < queue["bytes"] < 2 * growth  # what it counts is what it takes
            for _ in range(count - 1000):
                raw.send([""])
            wait_until(lambda: memory(server)["ventilator"] > before + limit // 2, what="the queue to grow")
            time.sleep(1)  # the limit ends the growth, not the time
            assert peak_memory(ventilator) < before + 2 * limit + 16 * MIB
        assert {int(raw.receive()[0]) for _ in range(count)} == set(range(1, count + 1))
        assert other.server_status["num_restarts"] == 0


def is_full(server: Server, limit: int) -> bool:
    """Asks on a connection of its own. One that was made before the server was full gets no answer meanwhile."""
    with contextlib.suppress(BertServingError), connect(server, timeout=1000) as client:
        held: int = client.server_status["queue"]["bytes"]
        assert held < limit + MIB
        return held >= limit
    return False


@linux_only
def test_a_server_that_is_full_of_bytes_answers_new_clients() -> None:
    """Also if they send requests, and however often the server gets full."""
    limit, count, num_new = MIB, 1_500, 5
    with (
        faulty("-queue_memory", str(limit), "-heartbeat_timeout", "100", engine="sound") as server,
        Raw(server, b"short") as raw,
    ):
        for period in range(2):
            with contextlib.ExitStack() as stack:
                with suspended(server.child("worker-0")):
                    for _ in range(count):
                        raw.send([""])
                    clients = []
                    for number in range(num_new):
                        wait_until(lambda: is_full(server, limit), what="a new client to see a full server")
                        client = stack.enter_context(connect(server, ignore_all_checks=True))
                        client.encode(texts(200, number), blocking=False)
                        clients.append(client)
                    wait_until(lambda: is_full(server, limit), what="a new client to see a full server")
                for number, client in enumerate(clients):
                    ((_, vectors, _),) = client.fetch()
                    assert_true(vectors, texts(200, number))
                first = 1 + period * count
                assert {int(raw.receive()[0]) for _ in range(count)} == set(range(first, first + count))
        with connect(server) as client:
            assert client.server_status["num_restarts"] == 0


@linux_only
def test_unread_messages_beyond_the_limit_are_refused() -> None:
    limit, size, count = 8 * MIB, 20 * MIB, 20
    with faulty("-queue_memory", str(limit), "-heartbeat_timeout", "100", engine="sound") as server:
        clients = [Raw(server, b"large %d" % index) for index in range(3)]
        before = memory(server)["ventilator"]
        with suspended(server.child("worker-0")):
            for _ in range(count):
                for client in clients:
                    client.last_id += 1
                    message = b'["hello"' + b" " * size + b"]"
                    client.push.send_multipart([client.identity, message, b"%d" % client.last_id, b"1"], copy=False)
            for client in clients:
                _, info, _ = client.receive()
                assert info["error"]["type"] == "overloaded"  # type: ignore[index]
                assert f"the limit is {limit} (-queue_memory)" in info["error"]["message"]  # type: ignore[index]
            # Each connection has a few complete messages and a part of one more.
            assert peak_memory(server.child("ventilator").pid) < before + limit + 3 * 8 * size
        for client in clients:
            ids = [1] + [int(client.receive()[0]) for _ in range(count - 1)]
            assert len(ids) == count
            client.close()
        with connect(server) as other:
            assert_true(other.encode(texts(3)), texts(3))
            assert other.server_status["num_restarts"] == 0


LARGE = {
    "valid": b"[" + b",".join([b'"' + b"hello world " * 500 + b'"'] * 4_000) + b"]",
    "brackets": b"[" * 100_000_000,
    "numbers": b"[" + b"1," * 50_000_000 + b"1]",
    "no end": b'["' + b"x" * 100_000_000,
    "no list": b"x" * 100_000_000,
    "tokens": b'[["' + b'","' * 30_000_000 + b'"]]',
    "bad end": b"[" + b'"hello world",' * 7_000_000 + b'"\\q"]',
}


@pytest.mark.parametrize("name", LARGE)
def test_others_are_served_while_a_large_message_is_read(server: Server, other: BertClient, name: str) -> None:
    """The message is decoded piece by piece, so other clients get many replies meanwhile."""
    with Raw(server, b"large") as raw:
        begun, longest, rounds = time.monotonic(), 0.0, 0
        raw.push.send_multipart([b"large", LARGE[name], b"1", b"1"], copy=False)
        while not raw.sub.poll(0):
            started = time.monotonic()
            assert_true(other.encode(texts(1)), texts(1))
            longest = max(longest, time.monotonic() - started)
            rounds += 1
        total = time.monotonic() - begun
        _, info, _ = raw.receive()
        assert ("error" in info) == (name != "valid"), info
        assert rounds >= 3, (longest, total)


def send_frames(server: Server, count: int) -> socket.socket:
    """Sends one message of empty frames, which ends."""
    sock = handshake(server.port, b"PUSH")
    sock.settimeout(60)
    for first in range(0, count, 500_000):
        sock.sendall(b"\x01\x00" * min(500_000, count - first))
    sock.sendall(b"\x00\x00")
    return sock


@linux_only
def test_a_message_of_a_million_frames_is_dropped(server: Server, other: BertClient) -> None:
    """ZeroMQ reads no other connection before its last frame, but accepted work goes on."""
    before = memory(server)["ventilator"]
    with Raw(server, b"before") as raw:
        with suspended(server.child("worker-0")):
            raw.send(texts(2000))
            wait_until(lambda: other.server_status["queue"]["requests"] == 1)
            sock = send_frames(server, 1_000_000)
            wait_until(lambda: "from 127.0.0.1: a message of more than 4096 frames" in server.log)
        _, _, vectors = raw.receive()
        assert vectors is not None
        assert_true(vectors, texts(2000))
    assert_true(other.encode(texts(3)), texts(3))
    with sock:
        sock.settimeout(30)
        with pytest.raises(ConnectionError):  # the sender is cut
            while sock.recv(4096):
                pass
            raise ConnectionError
    assert peak_memory(server.child("ventilator").pid) < before + 400 * MIB


def test_a_few_frames_too_many_are_an_error_that_closes_no_connection(server: Server, other: BertClient) -> None:
    with Raw(server, b"frames") as raw:
        raw.push.send_multipart([b"frames", b'["hello"]', b"1", b"1"] + [b""] * 1000)
        raw.send(texts(3))
        _, _, vectors = raw.receive()
        assert vectors is not None
        assert_true(vectors, texts(3))
    assert "received 1004" in server.log


@pytest.mark.slow
@linux_only
def test_ten_million_frames_end_no_process(server: Server, other: BertClient) -> None:
    """Their connection may be closed before the last one."""
    before = memory(server)["ventilator"]
    with contextlib.suppress(ConnectionError), send_frames(server, 10_000_000):
        assert_true(other.encode(texts(3)), texts(3))
    assert peak_memory(server.child("ventilator").pid) < before + 2048 * MIB


@pytest.mark.skipif(sys.platform != "linux" or small_blocks() is None, reason="needs glibc 2.33")
def test_unfinished_messages_of_tiny_frames_take_limited_memory() -> None:
    """An empty frame takes 2 bytes on the wire and 64 in memory; all of them would take 2.8 GiB."""
    num_attackers, size = 3, 30 * MIB
    large = [text(number) + " hello" * 2000 for number in range(500)]
    with faulty("-queue_memory", str(64 * MIB), "-heartbeat_timeout", "100", engine="sound") as server:
        before = memory(server)["ventilator"]
        ventilator = server.child("ventilator").pid
        with ThreadGroup() as threads, connect(server, check_length=False) as client:

            def attack() -> None:
                with contextlib.suppress(ConnectionError), handshake(server.port, b"PUSH") as sock:
                    for _ in range(size // MIB):
                        sock.sendall(b"\x01\x00" * (MIB // 2))
                    sock.settimeout(60)
                    while sock.recv(4096):  # until the server closes the connection
                        pass

            for _ in range(num_attackers):
                threads.start(attack)
            while threads.is_busy():
                assert client.encode(large, batch_size=None).shape == (500, 32)
            assert client.server_status["num_restarts"] == 0
        assert "while frames of such messages take" in server.log
        # The limit is 64 MiB; ZeroMQ receives frames for up to 1 GiB until the next check, a second later.
        assert peak_memory(ventilator) < before + 1536 * MIB
