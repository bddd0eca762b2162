"""The sink or the ventilator dies under load: clients lose no request, and clients of 1.10 can continue."""

from __future__ import annotations

import contextlib
import time

import psutil
import pytest

from bert_serving.client import BertClient
from fault_helpers import Raw, ThreadGroup, assert_true, connect, faulty, open_files, suspended, texts
from servers import serving, wait_until

ROLES = ["sink", "ventilator", "worker-0"]


def is_whole(client: BertClient, restarts: int = 1) -> bool:
    """Returns whether all processes are up after this number of restarts. A kill is noticed with a delay."""
    facts = client.server_status
    return facts["state"] == "ready" and facts["num_restarts"] >= restarts  # type: ignore[no-any-return]


@pytest.mark.parametrize("role", ["sink", "ventilator"])
def test_clients_continue_when_a_process_is_killed_repeatedly(role: str) -> None:
    with (
        faulty("-max_batch_size", "16", engine="steady") as server,
        ThreadGroup() as threads,
        connect(server) as observer,
    ):
        rounds = [0] * 6

        def load(index: int) -> None:
            with connect(server) as client:
                for round_ in range(12):
                    mine = texts(40, 100_000 * index + 40 * round_)
                    assert_true(client.encode(mine), mine)
                    rounds[index] += 1

        for index in range(len(rounds)):
            threads.start(load, index)
        for kill in range(3):
            wait_until(lambda kill=kill: sum(rounds) > 10 * (kill + 1) or not threads.is_busy(), what="answers")  # type: ignore[misc]
            server.child(role).kill()
            wait_until(lambda kill=kill: is_whole(observer, kill + 1), what="all processes to be up")  # type: ignore[misc]
        threads.join(120)
        assert rounds == [12] * len(rounds)
        assert server.log.count(f"{role} ended") == 3


def test_no_request_hangs_when_the_sink_of_fast_workers_is_killed() -> None:
    """Their first results reach the new sink before the ventilator has announced the jobs to it."""
    sentences = texts(2000)
    with serving("-engine", "zeros", "-num_worker", "4") as server, connect(server, check_length=False) as client:
        client.encode(sentences[:10])
        for kill in range(6):
            with ThreadGroup() as threads:
                for _ in range(20):
                    threads.start(client.encode, sentences)
                time.sleep(0.03 + 0.02 * kill)
                server.child("sink").kill()
                threads.join(60)
            wait_until(lambda kill=kill: is_whole(client, kill + 1), what="a new sink")  # type: ignore[misc]

        def is_idle() -> bool:
            queue = client.server_status["queue"]
            return (queue["requests"], queue["batches_in_flight"]) == (0, 0)

        wait_until(is_idle, what="an empty queue")


def test_all_processes_are_killed_at_once() -> None:
    with faulty(engine="steady") as server, ThreadGroup() as threads, connect(server) as observer:
        done: list[int] = []

        def load(index: int) -> None:
            with connect(server) as client:
                for round_ in range(8):
                    mine = texts(60, 100_000 * index + 60 * round_)
                    assert_true(client.encode(mine), mine)
                    done.append(index)

        for index in range(4):
            threads.start(load, index)
        for kill in range(2):
            wait_until(lambda kill=kill: len(done) > 5 * (kill + 1), what="answers")  # type: ignore[misc]
            for role in ROLES:
                server.child(role).kill()
            deaths = len(ROLES) * (kill + 1)
            wait_until(lambda deaths=deaths: is_whole(observer, deaths), what="all processes to be up")  # type: ignore[misc]
        threads.join(60)
        assert len(done) == 32


@pytest.mark.minutes
@pytest.mark.timeout(290)
def test_workers_that_die_while_a_new_ventilator_starts_cost_no_request() -> None:
    """The report of a death may come before the ventilator is connected, or before the registration of the worker."""
    sizes, options = (1, 40, 400), ("-num_worker", "2", "-max_batch_size", "16")
    with (
        faulty(*options, engine="steady") as server,
        ThreadGroup() as threads,
        connect(server, timeout=120_000) as observer,
    ):

        def load(index: int) -> None:
            with connect(server, timeout=120_000) as client:
                while not threads.stopped.is_set():
                    mine = texts(sizes[index % len(sizes)], 1000 * index)
                    assert_true(client.encode(mine), mine)

        for index in range(6):
            threads.start(load, index)
        for kill in range(20):
            worker = server.child(f"worker-{kill % 2}")
            server.child("ventilator").kill()
            time.sleep(0.08 * kill)  # the new ventilator connects within this range
            worker.kill()
            wait_until(
                lambda kill=kill: is_whole(observer, 2 * kill + 2) or not threads.is_busy(), what="all processes"
            )  # type: ignore[misc]
        threads.stopped.set()
        threads.join(60)

        def is_idle() -> bool:
            status = observer.server_status
            in_flight = [worker["in_flight"] for worker in status["workers"]]
            return status["queue"]["batches_in_flight"] == status["queue"]["requests"] == 0 and in_flight == [0, 0]

        wait_until(is_idle, what="an empty queue and two idle workers")


@pytest.mark.parametrize("role", ["sink", "ventilator"])
def test_a_client_of_version_1_10_works_again_on_its_next_request(role: str) -> None:
    with faulty() as server, Raw(server, b"old client") as client, connect(server) as observer:
        sent = {client.send(texts(3)): texts(3)}
        assert client.receive()[2] is not None
        server.child(role).kill()
        wait_until(lambda: is_whole(observer), what="the process to be up")
        # Its sockets connect again by themselves; what it sends before that is lost, as in 1.10.
        answered: set[bytes] = set()

        def is_answered() -> bool:
            sent[client.send(texts(2))] = texts(2)
            while client.sub.poll(200):
                request_id, _, vectors = client.receive()
                assert vectors is not None
                assert_true(vectors, sent[request_id])
                # The sink may have died before it could say that the first request was done: then that comes again.
                if len(sent[request_id]) == 2:
                    assert request_id not in answered
                    answered.add(request_id)
            return bool(answered)

        wait_until(is_answered, what="an answer")


def test_an_unfinished_request_is_answered_once_by_a_new_sink() -> None:
    with (
        faulty("-heartbeat_timeout", "120", engine="steady") as server,
        Raw(server, b"old client") as client,
        connect(server) as observer,
    ):
        worker = server.child("worker-0")
        sent = {client.send(texts(100, 1000 * number)): texts(100, 1000 * number) for number in range(100)}
        answered = {client.receive()[0]}

        def is_settled() -> bool:
            while client.sub.poll(300):
                answered.add(client.receive()[0])
            facts = observer.server_status
            is_known = facts["statistic"]["num_data_request"] == len(sent)
            return is_known and facts["queue"]["requests"] == len(sent) - len(answered)

        # Otherwise the sink could die with answers that we had not read, or before it could say that they were out.
        with suspended(worker):
            wait_until(is_settled, what="the answers to be counted")
            server.child("sink").kill()
            wait_until(lambda: observer.server_status["num_restarts"] == 1, what="a new sink")
        # What was under way is computed again.
        seen: list[bytes] = []
        while client.sub.poll(1000 if len(seen) == len(sent) - len(answered) else 60_000):
            request_id, _, vectors = client.receive()
            assert vectors is not None
            assert_true(vectors, sent[request_id])
            seen.append(request_id)
        assert len(seen) > 15
        assert sorted(seen) == sorted(set(sent) - answered)


def test_a_suspended_ventilator_is_replaced() -> None:
    with faulty("-heartbeat_timeout", "4") as server, connect(server) as client:
        with suspended(server.child("ventilator")):
            assert_true(client.encode(texts(20)), texts(20))
        assert "killing ventilator: no heartbeat" in server.log


@pytest.mark.minutes
def test_a_server_continues_after_all_its_processes_were_suspended() -> None:
    """Ctrl-Z and fg, or a sleeping machine: longer than the heartbeat timeout, but no process hangs."""
    with faulty("-heartbeat_timeout", "6") as server, connect(server) as client:
        assert_true(client.encode(texts(20)), texts(20))
        with contextlib.ExitStack() as stack:
            for process in (psutil.Process(server.process.pid), *server.children()):
                stack.enter_context(suspended(process))
            with pytest.raises(TimeoutError):  # the server is suspended until this client times out
                connect(server, timeout=8000)
        assert_true(client.encode(texts(20)), texts(20))
        until = time.monotonic() + 7
        while time.monotonic() < until:  # the supervisor ignores the gap; later heartbeats arrive
            assert_true(client.encode(texts(5)), texts(5))
            assert client.server_status["num_restarts"] == 0
        wait_until(lambda: is_whole(client, 0), what="the server to be ready")


def test_file_descriptors_do_not_grow_with_restarts() -> None:
    with faulty("-num_worker", "1") as server, connect(server) as client:
        client.encode(texts(5))
        supervisor = server.process.pid
        before = open_files(server)[supervisor]
        for kill in range(4):
            for role in ROLES:
                server.child(role).kill()
            assert_true(client.encode(texts(5)), texts(5))
            deaths = len(ROLES) * (kill + 1)
            wait_until(lambda deaths=deaths: is_whole(client, deaths), what="all processes to be up")  # type: ignore[misc]
        # Sockets of its last partners may take a moment to close.
        wait_until(lambda: open_files(server)[supervisor] <= before, what="the descriptors to come back")
