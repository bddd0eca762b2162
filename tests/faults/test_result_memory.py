"""The memory of results: under assembly, waiting, and in ZeroMQ's pipes to clients that do not read."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

import pytest
from test_limits import peak_memory

from bert_serving.client import BertClient
from fault_helpers import Raw, ThreadGroup, connect, memory, suspended
from servers import Server, serving, wait_until

MIB = 2**20
#: Token vectors of a text take 8 KiB. The limit of all results is ``LIMIT``.
LIMIT = 32 * MIB
OPTIONS = ("-engine", "zeros", "-pooling_strategy", "NONE", "-max_seq_len", "64", "-result_memory", str(LIMIT))
PATIENT = ("-heartbeat_timeout", "100")
#: Texts of a large request, whose result takes 3 MiB.
NUM_TEXTS = 384

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and bytes of TCP connections")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(*OPTIONS, *PATIENT) as server, connect(server) as client:
        client.encode(["hello"] * NUM_TEXTS)  # libraries and buffers of the first request
        yield server


def encode(client: BertClient, count: int) -> None:
    assert client.encode(["hello"] * count, batch_size=None).shape == (count, 64, 32)


def results(client: BertClient) -> dict[str, int]:
    return client.server_status["results"]  # type: ignore[no-any-return]


@pytest.mark.minutes
def test_clients_that_do_not_read_take_limited_memory_and_stop_no_other(server: Server) -> None:
    """Each of them is cut after some seconds without a read byte, when others need the memory."""
    sink, before = server.child("sink").pid, memory(server)["sink"]
    with contextlib.ExitStack() as stack, connect(server) as client:
        for number in range(12):
            deaf = stack.enter_context(Raw(server, b"deaf %d" % number, receive_buffer=4096))
            for _ in range(5):
                deaf.send(["hello"] * NUM_TEXTS)
        wait_until(lambda: results(client)["in_pipes"] > LIMIT // 4, what="results in the pipes")
        for _ in range(10):
            started = time.monotonic()
            encode(client, 4)
            assert time.monotonic() - started < 5, "short requests wait for no other result"
        encode(client, NUM_TEXTS)
        wait_until(lambda: results(client)["waiting_requests"] == 0, 120, "all requests to be computed")
        shown = results(client)
        assert shown["queued"] + shown["in_pipes"] <= 1.5 * LIMIT
        assert shown["max_bytes"] == LIMIT
        assert peak_memory(sink) < before + 2 * LIMIT + 32 * MIB
        assert "does not read; its results of" in server.log
        assert client.server_status["num_restarts"] == 0


def test_a_client_whose_results_were_dropped_is_told_when_it_reads(server: Server) -> None:
    with Raw(server, b"late", receive_buffer=4096) as late, connect(server) as client:
        for _ in range(11):
            late.send(["hello"] * NUM_TEXTS)
        wait_until(lambda: results(client)["in_pipes"] + results(client)["queued"] > LIMIT // 2, what="results")
        encode(client, 10 * NUM_TEXTS)  # needs the memory
        outcomes: dict[bytes, bool] = {}
        while len(outcomes) < 11:
            request_id, info, vectors = late.receive()
            outcomes[request_id] = vectors is not None
            assert vectors is not None or info["error"]["type"] == "overloaded"  # type: ignore[index]
        assert not all(outcomes.values())


def test_large_requests_start_one_after_the_other_and_survive_the_end_of_the_sink(server: Server) -> None:
    """Together their results take 4 times the limit."""
    count = 40
    sink = server.child("sink")
    before = memory(server)["sink"]
    with ThreadGroup() as threads, connect(server) as client:

        def work(number: int) -> None:
            with connect(server, timeout=120_000) as each:
                encode(each, NUM_TEXTS + number)

        with suspended(server.child("worker-0")):
            for number in range(count):
                threads.start(work, number)
            wait_until(lambda: results(client)["waiting_requests"] > count // 4, what="requests that wait for memory")
            shown = results(client)
        assert shown["reserved"] <= LIMIT
        assert peak_memory(sink.pid) < before + 2 * LIMIT + 32 * MIB
        for _ in range(2):
            sink = server.child("sink")
            sink.kill()
            wait_until(lambda sink=sink: not sink.is_running() or sink.status() == "zombie")  # type: ignore[misc]
            wait_until(lambda: client.server_status["state"] == "ready", what="a new sink")
        threads.join(150)
        wait_until(lambda: results(client)["reserved"] == 0, what="no reservation")
        wait_until(lambda: results(client)["waiting_requests"] == 0, what="no request that waits")
