"""Slow, silent, disconnected and identically named clients lose no result and do not delay other clients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq
from fault_engines.faulty import SLOW

from bert_serving.client import RequestTimeoutError
from fault_helpers import Raw, ThreadGroup, assert_true, connect, faulty, memory, suspended, text, texts
from servers import Server, wait_until

OLD_CLIENT = Path(__file__).resolve().parents[1] / "legacy" / "py3"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with faulty("-heartbeat_timeout", "120") as server:  # one of the tests holds its worker still
        yield server


def test_3000_unread_results_are_all_there_when_read(server: Server) -> None:
    with connect(server) as client:
        for number in range(3000):
            client.encode([text(number)], blocking=False)
        with connect(server) as other:  # everything was computed long before the first result is read
            wait_until(lambda: other.server_status["queue"]["requests"] == 0, what="the work to be done")
        vectors = client.fetch_all()
        assert len(vectors) == 3000
        assert_true(np.concatenate(vectors), texts(3000))


OLD_PROGRAM = """
import sys
from bert_serving.client import BertClient
client = BertClient(port=int(sys.argv[1]), port_out=int(sys.argv[2]), timeout=60000)
for number in range(3000):
    client.encode(["hello " + " ".join(str(number)) + " world"], blocking=False)
other = BertClient(port=int(sys.argv[1]), port_out=int(sys.argv[2]), timeout=60000)
while other.server_status["queue"]["requests"]:
    pass
vectors = client.fetch_all(sort=True, concat=True)
print(vectors.shape, float(vectors.sum()))
"""


@pytest.mark.skipif(not OLD_CLIENT.exists(), reason="the 1.10.0 client is fetched by make tests/legacy/.installed")
def test_3000_unread_results_are_all_there_for_the_old_client(server: Server) -> None:
    env = {**os.environ, "PYTHONPATH": str(OLD_CLIENT)}
    command = [sys.executable, "-c", OLD_PROGRAM, str(server.port), str(server.port_out)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    shape, total = done.stdout.rsplit(maxsplit=1)
    assert shape == "(3000, 32)"
    with connect(server) as client:
        assert float(total) == pytest.approx(float(client.encode(texts(3000)).sum()), rel=1e-4)


def flood(server: Server, threads: ThreadGroup, is_deaf: bool, answered: list[bytes]) -> None:
    """Sends 200 texts 100 times a second; reads all results or none."""
    with Raw(server, b"flood", receive_buffer=4096 if is_deaf else 0) as client:
        while not threads.stopped.wait(0.01):
            client.send(texts(200))
            while not is_deaf and client.sub.poll(0):
                answered.append(client.receive()[0])


def latencies(server: Server, number: int = 200) -> np.ndarray:
    """Returns the sorted latencies of single texts in seconds."""
    with connect(server) as client:
        seen = []
        for index in range(number):
            start = time.perf_counter()
            vectors = client.encode([text(index)])
            seen.append(time.perf_counter() - start)
            assert_true(vectors, [text(index)])
        return np.sort(seen)


def test_a_client_that_never_reads_costs_bounded_memory_and_delays_no_other_client() -> None:
    limit = 8 * 2**20
    with faulty("-result_memory", str(limit), "-max_batch_size", "64") as server:
        medians = {}
        for is_deaf in (False, True):
            with ThreadGroup() as threads:
                answered: list[bytes] = []
                threads.start(flood, server, threads, is_deaf, answered)
                if is_deaf:
                    wait_until(lambda: "-result_memory" in server.log, what="the limit to be reached")
                else:
                    wait_until(lambda answered=answered: len(answered) > 100, what="answers")  # type: ignore[misc]
                before = memory(server)["sink"]
                seen = latencies(server)
                assert memory(server)["sink"] < before + 2 * limit
                medians[is_deaf] = seen[len(seen) // 2]
                threads.stopped.set()
                threads.join(60)
        assert memory(server)["sink"] < 150 * 2**20
        print(f"median beside a client that reads: {medians[False]:.4f} s, that does not: {medians[True]:.4f} s")
        assert medians[True] < 3 * medians[False] + 0.5


def test_requests_of_a_disconnected_client_are_dropped() -> None:
    with faulty("-absent_ttl", "1", "-max_batch_size", "1") as server, connect(server) as observer:
        with Raw(server, b"leaves") as client:
            client.send([f"{SLOW} {i}" for i in range(10_000)])  # 40 minutes of work
            wait_until(lambda: observer.server_status["queue"]["sequences"] > 5000, what="the request to be taken in")
        wait_until(lambda: observer.server_status["queue"]["requests"] == 0, what="its work to be dropped")
        assert "is disconnected; dropping its 1 requests" in server.log
        assert_true(observer.encode(texts(3)), texts(3))


@pytest.mark.parametrize("count", [100, 20_000])
def test_requests_of_a_call_that_ended_are_dropped(count: int) -> None:
    """The call of a client that timed out, or was closed, leaves nothing behind but the batches under computation."""
    with faulty("-max_batch_size", "1") as server, connect(server) as observer, connect(server) as client:
        slow = [f"{SLOW} {i}" for i in range(count)]  # up to 80 minutes of work
        client.timeout = 500
        with pytest.raises(RequestTimeoutError):
            client.encode(slow)
        wait_until(lambda: observer.server_status["queue"]["sequences"] == 0, what="the queue to be empty")
        assert observer.server_status["queue"]["requests"] == 0
        client.timeout = 60_000
        assert_true(client.encode(texts(100)), texts(100))

        client.encode(slow, blocking=False)
        wait_until(lambda: observer.server_status["queue"]["sequences"] > 10, what="the request to be received")
        client.close()
        wait_until(lambda: observer.server_status["queue"]["requests"] == 0, what="the work to be dropped")
        assert_true(observer.encode(texts(3)), texts(3))


def test_a_request_is_cancelled_by_its_client_only() -> None:
    with faulty("-max_batch_size", "1") as server, Raw(server, b"mine") as mine, Raw(server, b"other") as other:
        for client in (mine, other):
            client.send([f"{SLOW} 1"] * 2)
            client.send(texts(2))
        cancel = json.dumps({"requests": [1, 99]}).encode()
        with Raw(server, b"stranger") as stranger:
            stranger.push.send_multipart([b"other", b"CANCEL", b"3", b"0", cancel])
            stranger.status()  # so the command was read
        mine.push.send_multipart([b"mine", b"CANCEL", b"3", b"0", cancel])
        assert mine.receive()[0] == b"2"
        assert {other.receive()[0], other.receive()[0]} == {b"1", b"2"}
        assert not mine.sub.poll(0)
        mine.push.send_multipart([b"mine", b"CANCEL", b"3", b"0"])  # without options: no effect
        mine.send(texts(1))
        assert mine.receive()[0] == b"3"


def test_a_client_cancels_on_a_new_connection() -> None:
    with faulty("-max_batch_size", "1") as server, connect(server) as observer:
        with Raw(server, b"same") as before:
            before.send([f"{SLOW} {number}" for number in range(50)])
            wait_until(lambda: observer.server_status["queue"]["requests"] == 1, what="the request to be received")
        with Raw(server, b"same") as after:
            cancel = json.dumps({"requests": [1]}).encode()

            def is_cancelled() -> bool:
                after.push.send_multipart([b"same", b"CANCEL", b"2", b"0", cancel])
                return bool(observer.server_status["queue"]["requests"] == 0)

            wait_until(is_cancelled, what="the server to notice the end of the first connection, and to cancel")


def test_a_client_that_reconnects_in_time_receives_its_results() -> None:
    with faulty("-max_batch_size", "1", "-heartbeat_timeout", "120") as server, connect(server) as observer:
        sent = [[f"{SLOW} {digit}"] for digit in range(8)]
        with (
            suspended(server.child("worker-0")),
            Raw(server, b"back soon") as client,
        ):  # nothing is ready when it leaves
            for sentences in sent:
                client.send(sentences)
            wait_until(lambda: observer.server_status["statistic"]["num_data_request"] == 8, what="the requests")
        wait_until(lambda: observer.server_status["queue"]["requests"] == 0, what="the work to be done")
        seen: dict[int, np.ndarray | None] = {}
        with Raw(server, b"back soon") as client:
            while client.sub.poll(1000 if seen else 60_000):
                request_id, _, vectors = client.receive()
                assert int(request_id) not in seen
                seen[int(request_id)] = vectors
        assert len(seen) >= 5
        for number, vectors in seen.items():
            assert vectors is not None
            assert_true(vectors, sent[number - 1])


@pytest.mark.parametrize("strange", [b"user#1", b"user@1", "用户".encode(), b"\xff\x00 user", b"u" * 255])
def test_identities_that_are_prefixes_of_others(server: Server, strange: bytes) -> None:
    names = [strange[:length] for length in sorted({1, len(strange) // 2, len(strange) - 1, len(strange)})]
    clients = [Raw(server, name) for name in names]
    sent = [texts(index + 1, 100 * index) for index in range(len(clients))]
    for client, sentences in zip(clients, sent, strict=True):
        client.send(sentences)
    for client, sentences in zip(clients, sent, strict=True):
        _, _, vectors = client.receive()
        assert vectors is not None
        assert_true(vectors, sentences)
    for client in clients:
        assert not client.sub.poll(50)
        client.close()


def test_clones_each_get_every_result(server: Server) -> None:
    clones = [Raw(server, b"clone") for _ in range(4)]
    for index, clone in enumerate(clones):  # all are subscribed once each has seen an answer
        clone.last_id = 100 * index
        clone.status()
    clones[0].send(texts(9))
    for clone in clones:
        vectors = None
        while vectors is None:  # answers to the questions of the others may come before
            _, _, vectors = clone.receive()
        assert_true(vectors, texts(9))
        clone.close()


@pytest.mark.parametrize("number", [1, 123 << 32 | 1], ids=["1.10.0", "this"])
def test_a_clone_receives_its_first_reply_although_it_subscribes_later(server: Server, number: int) -> None:
    with Raw(server, b"twin %d" % number) as first:
        first.push.send_multipart([first.identity, b"SHOW_CONFIG", b"%d" % number, b"0"])
        first.receive()
        with zmq.Context() as context, context.socket(zmq.PUSH) as push, context.socket(zmq.SUB) as sub:
            push.connect(f"tcp://127.0.0.1:{server.port}")
            push.send_multipart([first.identity, b"SHOW_CONFIG", b"%d" % number, b"0"])
            time.sleep(0.2)  # most likely, the question is there by then
            sub.setsockopt(zmq.SUBSCRIBE, first.identity)
            sub.connect(f"tcp://127.0.0.1:{server.port_out}")
            assert sub.poll(60_000), "no answer"
            assert sub.recv_multipart()[-1] == b"%d" % number


def test_a_client_can_query_which_of_its_requests_are_unknown(server: Server) -> None:
    """A client sends this query for requests that wait long, and sends unknown ones again."""
    with Raw(server, b"asks") as client, Raw(server, b"other") as other:
        other.last_id = 50
        with suspended(server.child("worker-0")):
            client.send(texts(3))
            other.send(texts(3))
            wait_until(lambda: client.status()["queue"]["requests"] == 2, what="both requests")  # type: ignore[index]
            asked = json.dumps({"requests": [1, 51, 999]}).encode()
            client.push.send_multipart([b"asks", b"SHOW_PENDING", b"77", b"0", asked])
            number, answer, _ = client.receive()
            assert (number, answer) == (b"77", {"unknown": [51, 999]})
        number, _, vectors = client.receive()
        assert number == b"1"
        assert vectors is not None
        assert_true(vectors, texts(3))
        wait_until(lambda: client.status()["queue"]["requests"] == 0, what="the end of it")  # type: ignore[index]
        client.push.send_multipart([b"asks", b"SHOW_PENDING", b"78", b"0", asked])
        assert client.receive()[1] == {"unknown": [1, 51, 999]}


def test_large_requests_are_known_and_cancelled_from_the_start(server: Server) -> None:
    """The digest of a message above 16 MiB is computed first, step by step."""
    large = json.dumps([" " * 999_000] * 20).encode()
    with Raw(server, b"large") as client:
        for number in (1, 2, 3):
            client.push.send_multipart([b"large", large, b"%d" % number, b"20"])
        options = json.dumps({"requests": [1, 2, 3, 999]}).encode()
        client.push.send_multipart([b"large", b"SHOW_PENDING", b"77", b"0", options])
        client.push.send_multipart([b"large", b"CANCEL", b"78", b"0", options])
        client.last_id = 78
        client.send(texts(3))
        replies = dict(client.receive()[:2] for _ in range(2))  # in any order
        assert replies.keys() == {b"77", b"79"}
        assert replies[b"77"] == {"unknown": [999]}
        wait_until(lambda: client.status()["queue"]["bytes"] == 0, what="the messages to be dropped")  # type: ignore[index]


def test_one_small_result_does_not_keep_its_whole_batch(server: Server) -> None:
    """256 requests of one text share a batch; one unread row must not keep the other 255 in memory."""
    with faulty("-pooling_strategy", "REDUCE_MEAN") as own, connect(own) as client:
        client.encode(texts(1000))
        before = memory(own)["sink"]
        strangers = Raw(own, b"another client")
        for number in range(3000):
            identity = b"never there %d" % number
            strangers.push.send_multipart([identity, json.dumps([text(number)]).encode(), b"1", b"1"])
        wait_until(lambda: client.server_status["statistic"]["num_data_request"] >= 3001, what="the requests to arrive")
        wait_until(lambda: client.server_status["queue"]["requests"] == 0, what="the work to be done")
        strangers.close()
        assert memory(own)["sink"] < before + 20 * 2**20
