"""Stop and rolling restart: accepted requests are drained, new ones are refused with a reason."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from fault_engines.faulty import HANG, SLOW

from bert_serving.client.errors import DrainingError
from fault_helpers import Raw, ThreadGroup, assert_true, connect, faulty, suspended, texts
from model_folders import hf_tensors, random_weights, write_hf
from servers import Server, free_ports, is_free, wait_until

#: Size of a file with holes, for whose digest any processor needs a minute and more.
LARGE = 2**38


def test_new_work_is_refused_with_a_reason_while_old_work_is_finished() -> None:
    with (
        faulty("-max_batch_size", "1", "-heartbeat_timeout", "120", "-drain_timeout", "120") as server,
        connect(server) as client,
        Raw(server, b"late") as late,
    ):
        results: list[np.ndarray] = []
        old = texts(9)
        thread = threading.Thread(target=lambda: results.append(client.encode(old)), daemon=True)
        with suspended(server.child("worker-0")):  # the old work takes as long as all the rest here
            thread.start()
            wait_until(lambda: late.status()["queue"]["requests"] == 1, what="the request to be accepted")  # type: ignore[index]
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: late.status()["state"] == "draining", what="the server to drain")
            late.send(["hello"])
            _, info, _ = late.receive()
            assert info["error"]["type"] == "draining"  # type: ignore[index]
            with (
                connect(server, ignore_all_checks=True) as new,
                pytest.raises(DrainingError, match="stopping and takes no new requests"),
            ):
                new.encode(["hello"])
        assert server.process.wait(60) == 0
        thread.join(60)
        assert_true(results[0], old)


def test_drain_timeout_forces_the_end() -> None:
    with faulty("-drain_timeout", "1") as server, connect(server) as client:
        client.encode([f"hello {HANG}"], blocking=False)
        wait_until(lambda: client.server_status["queue"]["requests"] == 1, what="the request to be accepted")
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 5
        assert time.monotonic() - started >= 1
        assert "unfinished after 1 s (-drain_timeout)" in server.log
        assert is_free(server.port)
        assert is_free(server.port_out)


def test_a_second_signal_forces_the_end() -> None:
    with faulty("-drain_timeout", "120") as server, connect(server) as client:
        client.encode([f"hello {HANG}"], blocking=False)
        wait_until(lambda: client.server_status["queue"]["requests"] == 1, what="the request to be accepted")
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: client.server_status["state"] == "draining", what="the server to drain")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 5
        assert "stopped at once after a second request" in server.log


def test_a_worker_that_dies_while_draining_is_replaced() -> None:
    options = ("-num_worker", "1", "-max_batch_size", "1", "-heartbeat_timeout", "120", "-drain_timeout", "120")
    with faulty(*options) as server, connect(server) as client:
        sentences = texts(9)
        results: list[np.ndarray] = []
        thread = threading.Thread(target=lambda: results.append(client.encode(sentences)), daemon=True)
        worker = server.child("worker-0")
        with suspended(worker):  # until it dies: so it does, with work in its hands, and before the draining is over
            thread.start()
            with connect(server) as other:
                wait_until(lambda: other.server_status["queue"]["requests"] == 1, what="the request to be accepted")
                server.process.send_signal(signal.SIGTERM)
                wait_until(lambda: other.server_status["state"] == "draining", what="the server to drain")
            worker.kill()
        assert server.process.wait(90) == 0, server.log
        thread.join(60)
        assert_true(results[0], sentences)


def test_results_of_a_disconnected_client_do_not_delay_the_stop() -> None:
    # If it waited for the client as long as results are kept, -drain_timeout would come first: a forced end.
    with faulty("-absent_ttl", "300", "-drain_timeout", "60") as server, connect(server) as observer:
        with Raw(server, b"leaves") as client:
            client.send([SLOW])
            wait_until(lambda: observer.server_status["statistic"]["num_data_request"] == 1, what="the request")
        wait_until(lambda: observer.server_status["queue"]["requests"] == 0, what="the work to be done")
        assert server.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_hangup_replaces_the_workers_without_a_failed_request(workers: int) -> None:
    with (
        faulty("-num_worker", str(workers), "-max_batch_size", "16", engine="steady") as server,
        ThreadGroup() as threads,
    ):
        rounds = [0, 0, 0, 0]

        def load(index: int) -> None:
            with connect(server) as client:
                while not threads.stopped.is_set():
                    mine = texts(40, 1000 * index + rounds[index] % 50)
                    assert_true(client.encode(mine), mine)
                    rounds[index] += 1

        for index in range(len(rounds)):
            threads.start(load, index)
        wait_until(lambda: min(rounds) > 1, what="the load to run")
        names = [f"worker-{index}" for index in range(workers)]
        before = [server.child(name).pid for name in names]
        server.process.send_signal(signal.SIGHUP)
        with connect(server) as observer:

            def is_new() -> bool:
                facts = observer.server_status
                new = [worker for worker in facts["workers"] if worker["name"].endswith(".2")]
                return facts["state"] == "ready" and len(new) == len(facts["workers"]) == workers

            wait_until(is_new, what="new workers")
            assert observer.server_status["num_restarts"] == 0
        threads.stopped.set()
        threads.join(60)
        assert not {server.child(name).pid for name in names} & set(before)
        assert " E:" not in server.log


def test_hangup_while_a_worker_is_being_replaced_by_force() -> None:
    with faulty("-num_worker", "2") as server, connect(server) as client:
        client.encode(texts(10))
        server.child("worker-1").kill()
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "draining worker-1" in server.log, what="the last worker to be replaced")
        wait_until(lambda: client.server_status["state"] == "ready", what="all workers to be back")
        assert_true(client.encode(texts(10)), texts(10))


@pytest.mark.parametrize("names", [["sink"], ["ventilator"], ["ventilator", "sink", "worker-0"], ["http"]])
def test_processes_that_die_while_draining_are_replaced(names: list[str]) -> None:
    """Twelve clients wait for a worker that stands still. Each gets its vectors, whichever process dies."""
    options = ("-max_batch_size", "1", "-heartbeat_timeout", "120", "-drain_timeout", "120")
    http = ("-http_port", str(free_ports(1)[0])) if "http" in names else ()
    with faulty(*options, *http) as server, ThreadGroup() as threads, connect(server) as observer:
        with suspended(server.child("worker-0")):  # the requests are unfinished until it goes on
            for index in range(12):
                threads.start(encode_once, server, texts(2, 10 * index))
            wait_until(lambda: observer.server_status["queue"]["requests"] == 12, what="the requests to be accepted")
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: observer.server_status["state"] == "draining", what="the server to drain")
            for name in names:
                server.child(name).kill()
                wait_until(lambda: f"{name} ended" in server.log, what=f"the end of {name}")  # noqa: B023
        threads.join(100)
        assert server.process.wait(60) == 0, server.log


@pytest.mark.minutes
@pytest.mark.parametrize("name", ["ventilator", "sink", "worker-0", "http"])
def test_a_process_that_dies_just_before_the_stop_costs_no_request(name: str) -> None:
    """Its successor is not connected yet when the drain begins."""
    http = ("-http_port", str(free_ports(1)[0])) if name == "http" else ()
    options = ("-max_batch_size", "1", "-heartbeat_timeout", "120", "-drain_timeout", "60", *http)
    with faulty(*options) as server, ThreadGroup() as threads, connect(server) as observer:
        with suspended(server.child("worker-0")):
            for index in range(12):
                threads.start(encode_once, server, texts(2, 10 * index))
            wait_until(lambda: observer.server_status["queue"]["requests"] == 12, what="the requests to be accepted")
            server.child(name).kill()
            wait_until(lambda: f"{name} ended" in server.log, what=f"the end of {name}")
            server.process.send_signal(signal.SIGTERM)
        threads.join(100)
        assert server.process.wait(60) == 0, server.log


@pytest.mark.minutes
def test_a_signal_ends_a_server_that_reads_a_large_file(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "model", hf_tensors(weights=random_weights()))
    with open(folder / "pytorch_model.bin", "wb") as file:
        try:
            file.truncate(LARGE)
        except OSError:
            pytest.skip("this file system has no files with holes")
    os.remove(folder / "model.safetensors")
    server = Server("-graph_tmp_dir", tmp_path / "cache", model_dir=folder)
    process = psutil.Process(server.process.pid)
    try:
        wait_until(
            lambda: any(each.path.endswith("pytorch_model.bin") for each in process.open_files()), 60, server.log
        )
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0, server.log
        assert "terminated!" in server.log
    finally:
        server.kill()


def encode_once(server: Server, sentences: list[str]) -> None:
    with connect(server) as client:
        assert_true(client.encode(sentences), sentences)
