"""Tests overload, suspended workers and shutdown: every request gets a response in time."""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil

from http_calls import HttpServer, Reply, serving_http
from servers import is_free, wait_until


def at_once(count: int, call: Callable[[int], Any]) -> list[Any]:
    """Calls ``call(0..count-1)`` in parallel threads and returns the results or exceptions."""
    results: list[Any] = [None] * count
    barrier = threading.Barrier(count)

    def work(index: int) -> None:
        try:
            barrier.wait(60)
            results[index] = call(index)
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    join(threads, 120)
    return results


def join(threads: list[threading.Thread], seconds: float) -> None:
    """Joins all threads within one common timeout."""
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def start_at_once(count: int, call: Callable[[int], Any]) -> tuple[threading.Thread, list[Any]]:
    """Starts :func:`at_once` in the background and returns its thread and the future list of results."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.extend(at_once(count, call)), daemon=True)
    thread.start()
    return thread, results


def wait_gauge(server: HttpServer, line: bytes, what: str) -> None:
    wait_until(lambda: line in server.call("/metrics").body, what=what)


def test_forty_concurrent_requests_with_four_slots() -> None:
    with serving_http("-engine", "zeros", "-http_max_connect", "4") as server:
        replies = [
            reply
            for _ in range(3)
            for reply in at_once(40, lambda index: server.call("/encode", {"id": index, "texts": ["a"] * 400}))
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


def test_64_kept_alive_connections_are_queued_without_rejection() -> None:
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


#: A text that makes a request large, so that it needs a whole slot.
LONG = "a " * 1000


@contextlib.contextmanager
def stuck(http_timeout: int) -> Iterator[tuple[HttpServer, psutil.Process]]:
    """Starts a server with a suspended worker, and resumes the worker at the end."""
    options = ["-http_max_connect", "2", "-http_timeout", str(http_timeout), "-heartbeat_timeout", "120"]
    with serving_http("-engine", "zeros", *options) as server:
        worker = server.server.child("worker-0")
        worker.suspend()
        try:
            yield server, worker
        finally:
            worker.resume()


def test_service_timeout_is_a_504_and_the_server_recovers() -> None:
    with stuck(2) as (server, worker):
        assert server.call("/readyz").status == 503  # no vectors are computed
        assert server.call("/healthz").status == 200
        # As many as there are slots: a queued one is refused after 5 s, and a busy machine may take as long.
        replies = at_once(2, lambda index: server.call("/encode", {"texts": [LONG]}))
        assert {reply.status for reply in replies} == {504}
        assert "-http_timeout" in replies[0].json["description"]
        assert server.call("/v1/embeddings", {"input": "a"}).json["error"]["type"] == "server_error"
        wait_until(lambda: server.call("/status/server").status == 200, what="the status, which needs no worker")
        worker.resume()
        wait_until(lambda: server.call("/readyz").status == 200, what="the worker to be ready again")
        wait_until(lambda: server.call("/encode", {"texts": ["a"]}).status == 200, what="an answer")


def test_queue_is_bounded_and_health_bypasses_it() -> None:
    """Overload is a 503, and a 429 on routes of text-embeddings-inference."""
    routes = (("/encode", "texts"), ("/embed", "inputs"))
    with stuck(10) as (server, _):
        thread, results = start_at_once(
            150, lambda index: server.call(routes[index % 2][0], {routes[index % 2][1]: [LONG]})
        )
        wait_gauge(server, b"bert_serving_http_requests_in_progress 2.0", "both slots to be taken")
        started = time.monotonic()
        assert server.call("/healthz").status == 200
        assert time.monotonic() - started < 30
        thread.join(120)
    counts = collections.Counter(reply.status for reply in results)
    assert set(counts) == {429, 503, 504}
    assert counts[429] + counts[503] >= 150 - 2 - 128
    assert all(int(result.headers["retry-after"]) >= 1 for result in results if result.status != 504)
    for status, key in ((503, "description"), (429, "error")):
        refused = [result.json for result in results if result.status == status]
        assert any("the server is overloaded" in body[key] for body in refused)
    assert {result.json["error_type"] for result in results if result.status == 429} == {"Overloaded"}


def test_small_requests_that_wait_for_vectors_take_no_thread() -> None:
    with stuck(60) as (server, worker):
        process = server.server.child("http")
        assert server.call("/metrics").status == 200
        num_threads = process.num_threads()
        bodies = [{"texts": ["a"]}, {"texts": []}, {"input": "a", "dimensions": 0}]
        paths = ["/encode", "/encode", "/v1/embeddings"]
        thread, replies = start_at_once(60, lambda index: server.call(paths[index % 3], bodies[index % 3]))
        wait_gauge(server, b"bert_serving_http_requests_in_progress 20.0", "all valid requests to wait")
        assert process.num_threads() <= num_threads + 3  # of the pool for other requests
        worker.resume()
        thread.join(120)
    assert [reply.status for reply in replies] == [200, 400, 400] * 20
    assert replies[2].json["error"]["param"] == "dimensions"


def test_small_requests_pass_large_ones() -> None:
    with stuck(60) as (server, worker):
        large, large_replies = start_at_once(10, lambda _: server.call("/encode", {"texts": [LONG]}))
        wait_gauge(server, b"bert_serving_http_requests_queued 8.0", "large requests to be queued")
        small, small_replies = start_at_once(20, lambda _: server.call("/encode", {"texts": ["a"]}))
        wait_gauge(server, b"bert_serving_http_requests_in_progress 22.0", "all small requests to be in progress")
        worker.resume()
        large.join(120)
        small.join(120)
    assert [reply.status for reply in (*large_replies, *small_replies)] == [200] * 30


def test_request_of_a_disconnected_client_is_not_encoded() -> None:
    with stuck(60) as (server, worker):
        thread, running = start_at_once(2, lambda index: server.call("/encode", {"texts": [LONG]}))
        wait_gauge(server, b"bert_serving_http_requests_in_progress 2.0", "both slots to be taken")
        process = server.server.child("http")
        with socket.create_connection(("127.0.0.1", server.http_port), 60) as sock:
            address = sock.getsockname()
            body = json.dumps({"texts": [LONG] * 200}).encode()  # too large for the buffers of the HTTP server
            head = b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
            sock.sendall(head + body)
            wait_gauge(server, b"bert_serving_http_requests_queued 1.0", "it to be queued")

        def is_closed() -> bool:
            return address not in [each.raddr for each in process.net_connections("tcp")]

        # It waits for 5 s and no longer. Within them the server must see that it is gone, and then have a place.
        wait_until(is_closed, what="the server to see the end of the connection")
        worker.resume()
        thread.join(120)
        assert [getattr(reply, "status", reply) for reply in running] == [200, 200]
        wait_gauge(server, b'{code="499",path="/encode"} 1.0', "it to be dropped")
        assert server.call("/status/server").json["statistic"]["num_data_request"] == 2


def test_suspended_ventilator_causes_no_500() -> None:
    with serving_http("-engine", "zeros", "-http_timeout", "1", "-heartbeat_timeout", "120") as server:
        ventilator = server.server.child("ventilator")
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
        wait_until(lambda: server.call("/readyz").status == 200, what="the ventilator to be back")


def test_a_restarted_ventilator_and_http_process_continue() -> None:
    with serving_http("-engine", "zeros") as server:
        assert server.call("/encode", {"texts": ["a"]}).status == 200
        server.server.child("ventilator").kill()
        assert server.call("/encode", {"texts": ["a"]}).status == 200
        server.server.child("http").kill()

        def answers() -> bool:
            with contextlib.suppress(OSError, http.client.HTTPException):
                return server.call("/readyz").status == 200
            return False

        wait_until(answers, what="the HTTP server to be back")
        assert server.call("/encode", {"texts": ["a"]}).status == 200


def test_stop_drains_running_requests_and_rejects_new_ones() -> None:
    with serving_http("-engine", "zeros", "-max_batch_size", "4", "-heartbeat_timeout", "120") as server:
        worker = server.server.child("worker-0")
        worker.suspend()
        body = {"texts": [f"hello world {i}" for i in range(2000)]}
        thread, running = start_at_once(3, lambda index: server.call("/encode", body, timeout=120))
        wait_until(
            lambda: server.call("/status/server").json["queue"]["requests"] >= 6, 60, "the requests to be accepted"
        )
        server.server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.call("/healthz").json["state"] == "draining", what="the server to drain")
        refused = server.call("/encode", {"texts": ["a"]})
        assert refused.status == 503
        assert refused.json["type"] == "Stopping"
        assert int(refused.headers["retry-after"]) >= 1
        assert server.call("/readyz").status == 503
        worker.resume()
        thread.join(120)
        assert [getattr(reply, "status", reply) for reply in running] == [200, 200, 200]
        assert all(len(reply.json["results"]) == 2000 for reply in running)
        assert server.server.process.wait(60) == 0, server.server.log
        assert "Traceback" not in server.server.log
        assert is_free(server.http_port)


def test_stop_under_load_responds_to_every_request() -> None:
    with serving_http("-engine", "zeros") as server:
        codes: collections.Counter[int] = collections.Counter()
        broken: list[BaseException] = []
        gone = threading.Event()

        def load() -> None:
            while not gone.is_set():
                try:
                    codes[server.call("/encode", {"texts": ["hello"] * 20}).status] += 1
                except ConnectionRefusedError:
                    return  # the server no longer listens
                except Exception as error:
                    broken.append(error)
                    return

        threads = [threading.Thread(target=load, daemon=True) for _ in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: codes[200] > 50, what="the load to run")
        server.server.process.send_signal(signal.SIGTERM)
        assert server.server.process.wait(60) == 0, server.server.log
        gone.set()
        join(threads, 60)
        assert set(codes) <= {200, 503}
        # A connection that was made in the last moment may be reset when the process ends; an accepted request not.
        assert all(isinstance(error, ConnectionError) for error in broken), broken
