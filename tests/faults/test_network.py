"""Broken connections and restarted servers: the client continues, or raises an error with the reason."""

from __future__ import annotations

import threading
import time

import pytest
import zmq
from fault_engines.faulty import HANG

from bert_serving.client import BertClient
from bert_serving.client.errors import RequestTimeoutError, ServerUnreachableError
from fault_helpers import HERE, FlakyProxy, ThreadGroup, assert_true, connect, faulty, text, texts
from servers import Server, wait_until


@pytest.mark.parametrize("seed", [1, 2])
def test_connections_cut_at_random(seed: int) -> None:
    """A proxy cuts connections to both ports after some kilobytes; each request is answered once."""
    with (
        faulty(engine="steady") as server,
        FlakyProxy(server.port, 4_000, seed) as requests,
        FlakyProxy(server.port_out, 15_000, seed + 100) as results,
        ThreadGroup() as threads,
    ):

        def load(index: int) -> None:
            with BertClient(port=requests.port, port_out=results.port, timeout=60_000) as client:
                for round_ in range(6):
                    mine = texts(30, 10_000 * index + 30 * round_)
                    assert_true(client.encode(mine), mine)
                for number in range(60):
                    client.encode([text(number)], blocking=False)
                vectors = client.fetch_all()
                assert len(vectors) == 60
                for number, vector in enumerate(vectors):
                    assert_true(vector, [text(number)])

        for index in range(6):
            threads.start(load, index)
        threads.join(120)
        assert requests.num_cut + results.num_cut >= 6


def test_all_connections_are_cut_while_all_clients_wait() -> None:
    with (
        faulty(engine="steady") as server,
        FlakyProxy(server.port, 0) as requests,
        FlakyProxy(server.port_out, 0) as results,
        ThreadGroup() as threads,
        connect(server) as observer,
    ):

        def load(index: int) -> None:
            with BertClient(port=requests.port, port_out=results.port, timeout=60_000) as client:
                mine = texts(3000, 10_000 * index)
                assert_true(client.encode(mine), mine)

        for index in range(4):
            threads.start(load, index)
        for proxy in (results, requests, results):
            wait_until(lambda: observer.server_status["queue"]["sequences"] > 0, what="work to wait")
            proxy.cut_all()
        threads.join(120)


def test_clients_carry_on_when_the_server_is_restarted() -> None:
    with faulty() as first:
        ports = ("-port", str(first.port), "-port_out", str(first.port_out))
        with ThreadGroup() as threads:
            rounds = [0, 0, 0]

            def load(index: int) -> None:
                with connect(first, connect_timeout=60_000) as client:
                    while not threads.stopped.is_set():
                        mine = texts(20, 1000 * index + rounds[index] % 50)
                        assert_true(client.encode(mine), mine)
                        rounds[index] += 1

            for index in range(3):
                threads.start(load, index)
            wait_until(lambda: min(rounds) > 3, what="the load to run")
            current = first
            try:
                for is_kind in (True, False, True):
                    if is_kind:
                        assert current.stop() == 0, current.log
                    else:
                        current.kill()
                    current = Server("-engine", "fault_engines.faulty", *ports, env={"PYTHONPATH": str(HERE)})
                    current.wait_ready()
                    seen = list(rounds)
                    wait_until(lambda seen=seen: all(now > then + 3 for now, then in zip(rounds, seen, strict=True)))  # type: ignore[misc]
                threads.stopped.set()
                threads.join(60)
                assert current.stop() == 0
            finally:
                current.kill()


def test_an_unreachable_server_raises_an_error_in_time() -> None:
    with faulty() as server, connect(server, connect_timeout=3000, timeout=-1) as client:
        assert_true(client.encode(texts(3)), texts(3))
        failures: list[tuple[float, BaseException]] = []

        def wait_in_vain() -> None:
            with pytest.raises(ServerUnreachableError) as caught:
                while True:
                    client.encode(texts(300))
            failures.append((time.monotonic(), caught.value))

        thread = threading.Thread(target=wait_in_vain, daemon=True)
        thread.start()
        killed = time.monotonic()
        server.kill()
        thread.join(60)
        assert failures, "the client hangs"
        assert failures[0][0] - killed < 30
        assert str(server.port) in str(failures[0][1])
        started = time.monotonic()
        with pytest.raises(ServerUnreachableError, match="connection refused"):
            client.encode(["hello"])
        assert time.monotonic() - started < 30
        with pytest.raises(TimeoutError):
            connect(server, timeout=500, connect_timeout=-1)


def test_a_server_that_does_not_answer_is_a_timeout() -> None:
    with faulty("-drain_timeout", "2") as server, connect(server) as client:  # the batch never comes to an end
        client.timeout = 1000
        with pytest.raises(RequestTimeoutError, match="1000 ms"):
            client.encode([HANG])


def test_a_partial_message_is_discarded() -> None:
    """The server discards a message whose connection breaks, and serves other clients."""
    with faulty() as server, FlakyProxy(server.port, 0) as proxy, connect(server) as other:
        with zmq.Context() as context, context.socket(zmq.PUSH) as push:
            push.setsockopt(zmq.LINGER, 0)
            push.connect(f"tcp://127.0.0.1:{proxy.port}")
            for _ in range(5):
                push.send_multipart([b"half", b'["' + b"x" * 30_000_000 + b'"]', b"1", b"1"])
                assert_true(other.encode(texts(3)), texts(3))
                proxy.cut_all()
            assert_true(other.encode(texts(3)), texts(3))
        assert other.server_status["num_restarts"] == 0
