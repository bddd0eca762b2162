"""The health reports of the server are correct during faults."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from fault_engines.faulty import RAISE

from bert_serving.client import BertClient, EncodingFailedError
from fault_helpers import assert_true, connect, faulty, suspended, texts
from servers import Server, free_ports, wait_until

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

from http_calls import HttpServer


@pytest.fixture(scope="module")
def http_server() -> Iterator[HttpServer]:
    (port,) = free_ports(1)
    # If the machine stands still for seconds, the supervisor misses no process for as long as this time-out.
    with faulty("-http_port", str(port), "-heartbeat_timeout", "40") as server:
        yield HttpServer(server, port)


def wait_readyz(server: HttpServer, status: int) -> None:
    wait_until(lambda: server.call("/readyz").status == status, what=f"/readyz to say {status}")


def state(client: BertClient) -> str:
    return client.server_status["state"]  # type: ignore[no-any-return]


def test_a_server_that_lost_its_only_worker_is_not_ready(http_server: HttpServer) -> None:
    server = http_server.server
    with connect(server) as client:
        assert_true(client.encode(texts(3)), texts(3))
        wait_readyz(http_server, 200)

        def is_seen_away() -> bool:
            # Killed as often as it comes back, so it is away at some look; but if none could ever start, that was all.
            if state(client) == "ready":
                with contextlib.suppress(AssertionError, psutil.NoSuchProcess):
                    server.child("worker-0").kill()
            return state(client) == "degraded" and http_server.call("/readyz").status == 503

        wait_until(is_seen_away, what="the loss to be noticed")
        assert_true(client.encode(texts(3)), texts(3))
        wait_until(lambda: state(client) == "ready", what="the worker to be back")
        wait_readyz(http_server, 200)


def test_a_suspended_worker_does_not_count_as_ready(http_server: HttpServer) -> None:
    """Before the supervisor replaces it."""
    server = http_server.server
    with connect(server) as client:
        wait_until(lambda: state(client) == "ready", what="the server to be ready")
        restarts = client.server_status["num_restarts"]
        with suspended(server.child("worker-0")):
            wait_until(lambda: state(client) == "degraded", what="the worker to be missed")
            wait_readyz(http_server, 503)
            assert http_server.call("/healthz").status == 200
        wait_until(lambda: state(client) == "ready", what="the worker to be heard of")
        wait_readyz(http_server, 200)
        assert client.server_status["num_restarts"] == restarts


def test_a_worker_whose_engine_always_fails_is_not_ready(http_server: HttpServer) -> None:
    server: Server = http_server.server
    with connect(server) as client:
        wait_until(lambda: state(client) == "ready", what="the server to be ready")
        for _ in range(25):
            with pytest.raises(EncodingFailedError):
                client.encode([f"hello {RAISE}"])
        wait_until(lambda: state(client) == "degraded", what="the failures to be counted")
        assert_true(client.encode(texts(3)), texts(3))
        wait_until(lambda: state(client) == "ready", what="word of the success")
