"""A model that no request names frees its memory; the next request waits for it, and others are not disturbed."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from bert_serving.client import BertClient
from http_calls import HttpServer, serving_http
from servers import TINY, Server, wait_until
from version_1 import assert_serves_version_1

SECONDS = "1"


@pytest.fixture(scope="module")
def http() -> Iterator[HttpServer]:
    """The first model stays; the other two are unloaded."""
    others = [f"{name}={TINY},pooling_layer=-1,idle_unload={SECONDS}" for name in ("a", "b")]
    with serving_http("-engine", "zeros", "-model", others[0], "-model", others[1]) as server:
        yield server


def connect(server: Server, model: str | None = None) -> BertClient:
    return BertClient(port=server.port, port_out=server.port_out, model=model, timeout=60_000, check_length=False)


def workers(server: Server) -> dict[str, int]:
    """Returns the process ids of the running workers, by name."""
    found: dict[str, int] = {}
    for child in server.children():
        with contextlib.suppress(psutil.Error):  # it has just ended
            for word in child.cmdline():
                if word.startswith("bert-serving-worker"):
                    found[word.removeprefix("bert-serving-")] = child.pid
    return found


def wait_unloaded(server: Server) -> None:
    wait_until(lambda: set(workers(server)) == {"worker-0"}, what="only the first model has a worker")


def test_a_model_is_unloaded_and_loaded_again(http: HttpServer) -> None:
    server = http.server
    wait_unloaded(server)
    first = workers(server)["worker-0"]
    with connect(server) as client:
        assert client.server_status["unloaded_models"] == ["a", "b"]
        status = client.server_status
        assert (status["state"], status["num_ready_worker"], status["num_restarts"]) == ("ready", 3, 0)
        assert http.call("/readyz").status == 200
        durations = []
        stop = threading.Event()

        def ask_the_first_model() -> None:
            while not stop.is_set():
                began = time.monotonic()
                client.encode(["hello world"])
                durations.append(time.monotonic() - began)

        thread = threading.Thread(target=ask_the_first_model)
        thread.start()
        with connect(server, "a") as other:
            assert other.encode(["hello world"]).shape == (1, 32)
        stop.set()
        thread.join()
    assert len(durations) > 10, "the first model answers while the other one is loaded"
    assert {"worker-0", "worker-a-0"} <= set(workers(server))
    assert "worker-b-0" not in workers(server), "only the model of the request is loaded"
    assert workers(server)["worker-0"] == first
    wait_unloaded(server)


@pytest.mark.parametrize("victim", ["ventilator", pytest.param("sink", marks=pytest.mark.minutes)])
def test_requests_for_an_unloaded_model_survive_the_death_of_a_process(http: HttpServer, victim: str) -> None:
    server = http.server
    wait_unloaded(server)
    with connect(server, "a") as client:
        thread_error: list[Any] = []

        def encode() -> None:
            try:
                client.encode(["hello world"])
            except Exception as error:
                thread_error.append(error)

        thread = threading.Thread(target=encode)
        thread.start()
        server.child(victim).kill()
        thread.join(60)
        assert not thread.is_alive()
        assert not thread_error
    wait_until(lambda: connect(server).server_status["state"] == "ready", what="all processes are back")


@pytest.mark.minutes
def test_a_supervisor_that_was_suspended_while_a_model_was_loaded_and_unloaded(http: HttpServer) -> None:
    """It finds the reports that the worker is ready and that its model is unloaded, in any order."""
    server = http.server
    supervisor = psutil.Process(server.process.pid)
    wait_unloaded(server)
    with connect(server, "a") as client:
        requests = ThreadPoolExecutor(1)
        starts = server.log.count("WORKER-A-0")
        first = requests.submit(client.encode, ["hello world"])
        wait_until(lambda: server.log.count("WORKER-A-0") > starts, what="the worker starts")
        supervisor.suspend()
        try:
            lines = server.log.count("model a: no request for")
            assert first.result(60).shape == (1, 32)
            wait_until(lambda: server.log.count("model a: no request for") > lines, what="the model is unloaded")
        finally:
            supervisor.resume()
        wait_unloaded(server)
        assert client.encode(["hello world"]).shape == (1, 32)
        requests.shutdown()


@pytest.mark.minutes
def test_many_requests_at_the_moment_of_unloading_are_answered(http: HttpServer) -> None:
    """Requests come just when the time is over, again and again."""
    with connect(http.server, "b") as client:
        for pause in (1.0, 0.9, 1.1, 0.0, 1.05, 0.95):
            time.sleep(pause)
            assert client.encode(["hello", "world"]).shape == (2, 32)
    with connect(http.server) as client:
        status = client.server_status
    assert status["by_model"]["b"]["queue"]["sequences"] == 0
    assert "crash" not in http.server.log


def test_a_client_of_1_10_beside_unloaded_models(http: HttpServer) -> None:
    assert_serves_version_1(http.server)
