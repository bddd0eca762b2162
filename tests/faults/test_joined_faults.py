"""Machines that join die, freeze, or lose their connections: no request is lost, none is answered twice."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from fault_engines.faulty import DIE, SLOW, SLOW_SECONDS
from joining import FRONT, Front, JoinedMachine, front

from fault_helpers import HERE, FlakyProxy, Raw, ThreadGroup, assert_true, connect, text, texts
from servers import TINY, wait_until

pytestmark = [pytest.mark.minutes, pytest.mark.cluster]

#: Twenty texts take about 10 ms, so requests are in flight for seconds.
ENGINE = ("-engine", "fault_engines.steady")
ENV = {"PYTHONPATH": str(HERE)}
SIZE = 20
ROUNDS = 12


@contextlib.contextmanager
def front_and_machines(count: int = 2, workers: int = 1) -> Iterator[tuple[Front, list[JoinedMachine]]]:
    with front(*ENGINE, "-max_batch_tokens", "512", env=ENV) as server:
        machines = [server.machine(*ENGINE, "-num_worker", str(workers), env=ENV) for _ in range(count)]
        for machine in machines:
            machine.wait_ready()
        server.wait_ready()
        yield server, machines


@contextlib.contextmanager
def two_models() -> Iterator[tuple[Front, list[JoinedMachine]]]:
    """Yields a front with two models, and two machines with workers of both."""
    further = f"other={TINY},pooling_layer=-1"
    with front(*ENGINE, "-max_batch_tokens", "512", "-model", f"{further},num_worker=0", env=ENV) as server:
        machines = [server.machine(*ENGINE, "-model", f"other={TINY}", env=ENV) for _ in range(2)]
        for machine in machines:
            machine.wait_ready()
        server.wait_ready()
        yield server, machines


class Load:
    """Sends requests at once, and checks that each is answered exactly once with the right vectors."""

    def __init__(self, server: Front, identity: bytes, count: int = 150) -> None:
        self.client, self._monitor = Raw(server, identity), Raw(server, identity + b" status")
        self.client.status()  # connected and subscribed
        self.sent = {}
        for number in range(count):
            sentences = texts(SIZE, SIZE * number)
            self.sent[self.client.send(sentences)] = sentences

    def receive(self, count: int) -> None:
        for _ in range(count):
            request_id, info, vectors = self.client.receive(120)
            sentences = self.sent.pop(request_id)  # a second reply raises KeyError
            assert vectors is not None, info
            assert_true(vectors, sentences)

    def status(self) -> dict[str, Any]:
        return self._monitor.status()

    def finish(self) -> dict[str, Any]:
        """Receives all replies. Returns the status when no batch is in flight."""
        self.receive(len(self.sent))
        assert not self.client.sub.poll(200)
        status: dict[str, Any] = {}

        def is_idle() -> bool:
            status.update(self.status())
            return status["queue"]["batches_in_flight"] == status["queue"]["requests"] == 0

        wait_until(is_idle, what="no batch in flight")
        assert not any(worker["in_flight"] for worker in status["workers"])
        return status

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *exception: object) -> None:
        self.client.close()
        self._monitor.close()


def processes(machine: JoinedMachine) -> list[psutil.Process]:
    return [psutil.Process(machine.process.pid), *machine.children()]


def test_a_killed_worker_costs_no_request() -> None:
    with front_and_machines(1) as (server, [machine]), Load(server, b"load") as load:
        for number in range(1, 4):
            load.receive(10)
            machine.child("worker-0").kill()
            wait_until(lambda number=number: machine.log.count("ready and listening!") > number)  # type: ignore[misc]
        status = load.finish()
        assert status["joined"]["num_losses"] == 0
        assert len(status["workers"]) == 1
        kills = f"hello {DIE}"
        bad = load.client.send([kills])
        request_id, info, _ = load.client.receive()
        assert request_id == bad
        assert info["error"]["type"] == "encoding_failed"  # type: ignore[index]
        assert "2 workers died" in info["error"]["message"]  # type: ignore[index]


def test_a_killed_machine_is_lost_and_others_compute_its_batches() -> None:
    with front_and_machines() as (server, machines), Load(server, b"load") as load:
        load.receive(10)
        machines[0].kill()
        status = load.finish()
        wait_until(lambda: load.status()["joined"]["num_losses"] == 1)
        assert len(load.status()["joined"]["machines"]) == 1
        assert status["state"] == "ready"


@pytest.mark.parametrize("victim", ["worker-0", "worker-other-0", "machine", "ventilator", "sink"])
def test_deaths_cost_no_request_of_any_of_two_models(victim: str) -> None:
    with two_models() as (server, machines), ThreadGroup() as threads:
        counts = {"tiny": 0, "other": 0}

        def load(model: str, first: int) -> None:
            with connect(server, model=model, check_length=False) as client:
                while not threads.stopped.is_set():
                    sentences = texts(SIZE, first + SIZE * counts[model])
                    assert_true(client.encode(sentences), sentences)
                    counts[model] += 1

        def wait_for_replies() -> None:
            before = dict(counts)
            wait_until(
                lambda: not threads.is_busy() or all(counts[model] > before[model] + 5 for model in counts),
                120,
                "replies",
            )

        for number, model in enumerate(counts):
            threads.start(load, model, 1_000_000 * number)
        wait_for_replies()
        if victim == "machine":
            machines[0].kill()
        elif victim.startswith("worker"):
            machines[0].child(victim).kill()
        else:
            server.child(victim).kill()
        wait_for_replies()
        threads.stopped.set()
        threads.join(120)
        with connect(server) as client:
            expected = ("ready", 2 if victim == "machine" else 4)

            def is_whole() -> bool:
                status = client.server_status
                return (status["state"], status["num_ready_worker"]) == expected

            wait_until(is_whole, what="the workers that are left")


def test_a_frozen_machine_is_lost_and_joins_again() -> None:
    with front_and_machines() as (server, machines), Load(server, b"load", 300) as load:
        load.receive(10)
        frozen = processes(machines[0])
        for process in frozen:
            process.suspend()
        wait_until(lambda: "is lost" in server.log)
        for process in frozen:
            process.resume()
        load.finish()
        wait_until(lambda: load.status()["joined"]["num_joins"] == 3)
        wait_until(lambda: load.status()["num_ready_worker"] == 2)
        with Load(server, b"again", 20) as again:
            again.finish()


def test_the_clock_of_a_machine_may_show_any_time() -> None:
    path = os.pathsep.join(map(str, (HERE, HERE / "shifted_clock")))
    with front("-engine", "fault_engines.faulty", "-max_batch_size", "1", env=ENV) as server:
        machine = server.machine("-engine", "fault_engines.faulty", "-num_worker", "2", env={"PYTHONPATH": path})
        machine.wait_ready()
        server.wait_ready()
        timings: list[dict[str, float]] = []
        with connect(server) as client:
            wait_until(lambda: client.server_status["num_ready_worker"] == 2)
            client.encode([f"hello {SLOW}", f"world {SLOW}"], timings=timings)
        assert SLOW_SECONDS <= timings[0]["compute"] < 60
        with Load(server, b"load", 20) as load:
            # Longer than -join_timeout: without valid reports, the machine would be lost.
            wait_until(lambda: load.status()["joined"]["machines"][0]["joined_seconds"] > 5)
            status = load.finish()
            assert [0 < each["last_batch_seconds"] < 60 for each in status["workers"]] == [True, True]
            assert status["joined"]["num_losses"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_machine_drains_under_load(number: signal.Signals) -> None:
    with front_and_machines() as (server, machines), Load(server, b"load") as load:
        load.receive(10)
        machines[0].process.send_signal(number)
        assert machines[0].wait_end() == 0
        assert load.sent
        assert "requeuing" not in server.log
        assert load.finish()["joined"]["num_losses"] == 0


def test_the_last_machine_leaves_and_the_next_one_goes_on() -> None:
    with front_and_machines(1) as (server, [machine]), Load(server, b"load") as load:
        load.receive(10)
        assert machine.stop() == 0
        assert load.status()["num_ready_worker"] == 0
        server.machine(*ENGINE, env=ENV)
        load.finish()


def test_a_front_drains_under_load_and_its_machines_join_the_next_one() -> None:
    with front_and_machines(1) as (server, [machine]):
        with Load(server, b"load") as load:
            load.receive(10)
            server.process.send_signal(signal.SIGTERM)
            load.receive(len(load.sent))
        assert server.process.wait(60) == 0
        successor = Front(
            *FRONT, *ENGINE, "-max_batch_tokens", "512", env=ENV, join_ports=(server.join_port, server.join_port_out)
        )
        try:
            successor.wait_ready()
            with Load(successor, b"load", 20) as load:
                load.finish()
            assert machine.log.count("joined the front") == 2
        finally:
            successor.kill()


def test_a_killed_ventilator_and_a_killed_sink_find_their_machines_again() -> None:
    with front_and_machines() as (server, _):
        with connect(server) as client:
            for name in ("ventilator", "sink"):
                server.child(name).kill()
                assert_true(client.encode(texts(200)), texts(200))
        with Load(server, b"load", 20) as load:
            assert len(load.finish()["joined"]["machines"]) == 2


def test_cut_connections_cost_no_request() -> None:
    """A proxy cuts both lines of a machine at random, and all of them four times a round."""
    with front(*ENGINE, "-max_batch_tokens", "512", env=ENV) as server:
        lines = [
            FlakyProxy(port, mean_bytes, seed, ("127.0.0.2", port))
            for seed, (port, mean_bytes) in enumerate(((server.join_port, 20_000), (server.join_port_out, 60_000)))
        ]
        try:
            server.machine(*ENGINE, "-num_worker", "2", env=ENV, host="127.0.0.2").wait_ready()
            server.wait_ready()
            for number in range(ROUNDS):
                with Load(server, b"round %d" % number, 60) as load:
                    alone = load.client.send([text(number)])  # two deaths while it is alone would end it
                    load.sent[alone] = [text(number)]
                    for _ in range(4):
                        load.receive(10)
                        for line in lines:
                            line.cut_all()
                    load.finish()
            assert sum(line.num_cut for line in lines) > ROUNDS
        finally:
            for line in lines:
                line.close()


def test_the_sink_dies_under_load_of_four_fast_workers() -> None:
    engine = ("-engine", "fault_engines.sound")
    with front(*engine, "-max_batch_tokens", "512", env=ENV) as server, connect(server) as client:
        server.machine(*engine, "-num_worker", "2", env=ENV).wait_ready()
        server.machine(*engine, "-num_worker", "2", env=ENV).wait_ready()
        server.wait_ready()
        for number in range(ROUNDS):
            sentences = texts(3000, number)
            with ThreadGroup() as group:
                group.start(lambda sentences=sentences: assert_true(client.encode(sentences), sentences))
                time.sleep(0.05 * (number % 4))
                server.child("sink").kill()
                group.join(60)
            wait_until(lambda number=number: server.log.count("SINK") > number + 1)  # type: ignore[misc]
        with Load(server, b"load", 20) as load:
            assert load.finish()["num_ready_worker"] == 4
