"""Too many at once, workers that do not answer, a server that stops: nobody hangs, everybody is told."""

from __future__ import annotations

import collections
import contextlib
import http.client
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from http_calls import HttpServer, Reply, serving_http
from servers import is_free, wait_until


def at_once(count: int, call: Callable[[int], Any]) -> list[Any]:
    """The results of ``call(0..count-1)``, each from its own thread; exceptions in their place."""
    results: list[Any] = [None] * count
    barrier = threading.Barrier(count)

    def work(index: int) -> None:
        barrier.wait()
        try:
            results[index] = call(index)
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return results


def test_forty_at_once_on_four_places() -> None:
    with serving_http("-engine", "zeros", "-http_max_connect", "4") as server:
        replies = [
            reply
            for _ in range(3)
            for reply in at_once(40, lambda index: server.call("/encode", {"id": index, "texts": ["a"] * 200}))
        ]
        assert all(isinstance(reply, Reply) for reply in replies), replies
        counts = collections.Counter(reply.status for reply in replies)
        assert set(counts) <= {200, 503}
        assert counts[200] >= 36 * 3
        for reply in replies:
            if reply.status == 503:
                assert reply.json["type"] == "Overloaded"
                assert int(reply.headers["retry-after"]) >= 1
        assert server.call("/encode", {"texts": ["a"]}).status == 200


def test_sixty_four_connections_that_stay_open_wait_for_their_turn() -> None:
    body = b'{"texts": ["hello world"]}'

    def ten_requests(server: HttpServer) -> list[int]:
        connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=60)
        codes = []
        with contextlib.closing(connection):
            for _ in range(10):
                connection.request("POST", "/encode", body)
                response = connection.getresponse()
                response.read()
                codes.append(response.status)
        return codes

    with serving_http("-engine", "zeros") as server:
        results = at_once(64, lambda _: ten_requests(server))
    assert results == [[200] * 10] * 64


@pytest.fixture
def stuck() -> Any:
    """A server whose worker stands still, until it is resumed."""
    with serving_http(
        "-engine", "zeros", "-http_max_connect", "2", "-http_timeout", "2", "-heartbeat_timeout", "120"
    ) as server:
        worker = server.server.part("worker-0")
        worker.suspend()
        try:
            yield server, worker
        finally:
            worker.resume()


def test_a_service_that_does_not_answer_is_a_504_and_not_the_end(stuck: tuple[HttpServer, Any]) -> None:
    server, worker = stuck
    assert server.call("/readyz").status == 503  # no vectors come
    assert server.call("/healthz").status == 200
    replies = at_once(4, lambda index: server.call("/encode", {"texts": ["a"]}))
    assert {reply.status for reply in replies} == {504}
    assert "-http_timeout" in replies[0].json["description"]
    assert server.call("/v1/embeddings", {"input": "a"}).json["error"]["type"] == "server_error"
    assert server.call("/status/server").status == 200
    worker.resume()
    wait_until(lambda: server.call("/readyz").status == 200, 30, "the worker to be ready again")
    assert server.call("/encode", {"texts": ["a"]}).status == 200


def test_the_queue_is_bounded_and_health_goes_past_it(stuck: tuple[HttpServer, Any]) -> None:
    server, _ = stuck
    results: list[Any] = []
    thread = threading.Thread(
        target=lambda: results.extend(at_once(150, lambda index: server.call("/encode", {"texts": ["a"]})))
    )
    thread.start()
    wait_until(lambda: b"bert_serving_http_running 2.0" in server.call("/metrics").body, 10, "both places to be taken")
    started = time.monotonic()
    assert server.call("/healthz").status == 200
    assert time.monotonic() - started < 5
    thread.join(120)
    counts = collections.Counter(reply.status for reply in results)
    assert set(counts) == {503, 504}
    assert counts[503] >= 150 - 2 - 128
    refused = [result for result in results if result.status == 503]
    assert all(int(result.headers["retry-after"]) >= 1 for result in refused)
    assert any("requests are worked on and" in result.json["description"] for result in refused)


def test_who_hangs_up_while_waiting_costs_nothing(stuck: tuple[HttpServer, Any]) -> None:
    server, _ = stuck
    running: list[Any] = []
    thread = threading.Thread(
        target=lambda: running.extend(at_once(2, lambda index: server.call("/encode", {"texts": ["a"]})))
    )
    thread.start()
    wait_until(lambda: b"bert_serving_http_running 2.0" in server.call("/metrics").body, 10, "both places to be taken")
    with socket.create_connection(("127.0.0.1", server.http_port)) as sock:
        sock.sendall(b'POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n{"texts": ["a"]}')
        wait_until(lambda: b"bert_serving_http_waiting 1.0" in server.call("/metrics").body, 10, "it to wait")
    thread.join(30)
    wait_until(lambda: b'{code="499",path="/encode"} 1.0' in server.call("/metrics").body, 10, "it to be dropped")
    assert server.call("/status/server").json["statistic"]["num_data_request"] == 2


def test_a_ventilator_that_stands_still_gives_no_500() -> None:
    with serving_http("-engine", "zeros", "-http_timeout", "1", "-heartbeat_timeout", "120") as server:
        ventilator = server.server.part("ventilator")
        ventilator.suspend()
        try:
            for path in ("/status/server", "/readyz", "/ping"):
                reply = server.call(path)
                assert reply.status in (503, 504), path
            metrics = server.call("/metrics")
            assert metrics.status == 200
            assert b"bert_serving_up 0.0" in metrics.body
            assert server.call("/encode", {"texts": ["a"]}).status == 504
        finally:
            ventilator.resume()
        wait_until(lambda: server.call("/readyz").status == 200, 30, "the ventilator to be back")


def test_a_new_ventilator_and_a_new_proxy_go_on_where_the_old_ones_ended() -> None:
    with serving_http("-engine", "zeros") as server:
        assert server.call("/encode", {"texts": ["a"]}).status == 200
        server.server.part("ventilator").kill()
        assert server.call("/encode", {"texts": ["a"]}).status == 200
        server.server.part("proxy").kill()

        def answers() -> bool:
            with contextlib.suppress(OSError):
                return server.call("/readyz").status == 200
            return False

        wait_until(answers, 60, "the proxy to be back")
        assert server.call("/encode", {"texts": ["a"]}).status == 200


def test_stopping_finishes_running_requests_and_refuses_new_ones() -> None:
    with serving_http("-engine", "zeros", "-max_batch_size", "4", "-heartbeat_timeout", "120") as server:
        worker = server.server.part("worker-0")
        worker.suspend()
        running: list[Any] = []
        body = {"texts": [f"hello world {i}" for i in range(2000)]}
        thread = threading.Thread(target=lambda: running.extend(at_once(3, lambda index: server.call("/encode", body))))
        thread.start()
        wait_until(
            lambda: server.call("/status/server").json["queue"]["requests"] >= 6, 30, "the requests to be accepted"
        )
        server.server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.call("/healthz").json["state"] == "draining", 10, "the server to drain")
        refused = server.call("/encode", {"texts": ["a"]})
        assert refused.status == 503
        assert refused.json["type"] == "Stopping"
        assert int(refused.headers["retry-after"]) >= 1
        assert server.call("/readyz").status == 503
        worker.resume()
        thread.join(60)
        assert [getattr(reply, "status", reply) for reply in running] == [200, 200, 200]
        assert all(len(reply.json["results"]) == 2000 for reply in running)
        assert server.server.process.wait(30) == 0, server.server.log
        assert "Traceback" not in server.server.log
        assert is_free(server.http_port)


def test_stopping_under_load_answers_everybody() -> None:
    with serving_http("-engine", "zeros") as server:
        codes: collections.Counter[int] = collections.Counter()
        broken: list[BaseException] = []
        gone = threading.Event()

        def load() -> None:
            while not gone.is_set():
                try:
                    codes[server.call("/encode", {"texts": ["hello"] * 20}).status] += 1
                except ConnectionRefusedError:
                    return  # nobody listens any more
                except Exception as error:
                    broken.append(error)
                    return

        threads = [threading.Thread(target=load) for _ in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: codes[200] > 50, 60, "the load to run")
        server.server.process.send_signal(signal.SIGTERM)
        assert server.server.process.wait(60) == 0, server.server.log
        gone.set()
        for thread in threads:
            thread.join(60)
        assert set(codes) <= {200, 503}
        # A connection that was made in the last moment may be reset when the process ends; an accepted request not.
        assert all(isinstance(error, ConnectionError) for error in broken), broken
