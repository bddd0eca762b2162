"""A client of several servers: shared requests, lost and stopping servers, other models."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bert_serving.client import (
    AsyncBertClient,
    BertClient,
    ClientClosedError,
    ConcurrentBertClient,
    EncodingFailedError,
    OptionError,
    OverloadedError,
    RequestTimeoutError,
    ServerUnreachableError,
    TaskError,
    TooLargeError,
)
from bert_serving.client._transport import connection_group, front_link, retry_policy
from fake_server import CONFIG, FakeServer, until, vectors
from servers import free_ports

SPACE = {**CONFIG, "vector_space": "a1", "task": "embed", "state": "ready", "num_ready_worker": 1}
Start = Callable[..., FakeServer]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts fake servers of one model; they hold requests by default."""
    with ExitStack() as stack:

        def run(hold: bool = True, **changes: Any) -> FakeServer:
            server = FakeServer({**SPACE, **changes}, hold)
            stack.callback(server.close)
            return server

        yield run


def address(server: FakeServer) -> str:
    return f"127.0.0.1:{server.port}:{server.port_out}"


def client_of(*servers: FakeServer, **options: Any) -> BertClient:
    return BertClient(ip=[address(server) for server in servers], **{"timeout": 30_000, **options})


def texts_of(*servers: FakeServer) -> list[str]:
    return [text for server in servers for request in server.received for text in request.texts]


TEXTS = ["x" * n for n in range(1, 41)]


def test_requests_are_shared_and_rows_are_in_order(start: Start, pool: ThreadPoolExecutor) -> None:
    one, two = start(), start()
    with client_of(one, two) as client:
        call = pool.submit(client.encode, TEXTS, batch_size=5)
        until(lambda: one.held.qsize() == two.held.qsize() == 4, "four requests for each server")
        for server in (two, one):
            for _ in range(4):
                server.reply(server.next(), vector_space="a1")
        np.testing.assert_array_equal(call.result(30), vectors(TEXTS))
        assert sorted(texts_of(one, two)) == sorted(TEXTS)
        assert client.status["connected"]
        assert [each["state"] for each in client.status["fronts"]] == ["connected", "connected"]
        assert client.pending_request == set()


def test_the_server_with_fewer_texts_in_flight_gets_the_next_request(start: Start) -> None:
    one, two = start(), start()
    with client_of(one, two) as client:
        client.encode(["a"] * 30, blocking=False)
        for _ in range(3):
            client.encode(["b"] * 10, blocking=False)
        until(lambda: len(one.received) + len(two.received) == 4)
        assert {len(one.received), len(two.received)} == {1, 3}
        for server in (one, two):
            while server.held.qsize():
                server.reply(server.next())
        assert [len(each) for each in client.fetch_all() or []] == [30, 10, 10, 10]
        for _ in range(4):  # with equal load, the servers take turns
            one.hold = two.hold = False
            client.encode(["c"])
        assert sum(request.texts == ["c"] for request in one.received) == 2


@pytest.mark.parametrize("how", ["posted", "streamed", "blocking"])
def test_requests_of_a_lost_server_go_to_the_other_one(
    start: Start, pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    one, two = start(), start()
    with client_of(one, two) as client:
        batches = [TEXTS[n : n + 5] for n in range(0, 40, 5)]
        calls: dict[str, Callable[[], Any]] = {
            "posted": lambda: [client.encode(each, blocking=False) for each in batches] and client.fetch_all(),
            "streamed": lambda: [
                each.embedding for each in sorted(client.encode_async(iter(batches)), key=lambda each: each.id)
            ],
            "blocking": lambda: [client.encode(TEXTS, batch_size=5)],
        }
        call = pool.submit(calls[how])
        until(lambda: one.held.qsize() == two.held.qsize() == 4)
        one.reply(one.next(), vector_space="a1")  # a reply before the loss counts
        until(lambda: len(client._connection.pending_numbers()) == 7)
        one.stop()
        until(lambda: two.held.qsize() == 7, "the other server has all requests")
        for _ in range(7):
            two.reply(two.next(), vector_space="a1")
        np.testing.assert_array_equal(np.concatenate(call.result(30)), vectors(TEXTS))
        assert len(two.received) == 7
        [line] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert line == f"{address(one)} is lost; its 3 requests go to the other servers"
        two.hold = False
        for _ in range(2):
            client.encode(["y"])
        one.start()
        until(lambda: "is back" in caplog.text)
        one.hold = False
        for _ in range(2):
            client.encode(["z"])
        assert "z" in texts_of(one)


def test_a_stopping_server_answers_what_it_accepted_and_gets_nothing_new(start: Start) -> None:
    one, two = start(), start()
    with client_of(one, two) as client:
        for text in ("a", "b", "c", "d"):
            client.encode([text], blocking=False)
        until(lambda: one.held.qsize() == two.held.qsize() == 2)
        accepted, refused = one.next(), one.next()
        one.reply_error(refused, "draining", "the server is stopping")
        until(lambda: two.held.qsize() == 3)
        for _ in range(4):
            client.encode(["e"], blocking=False)
        until(lambda: two.held.qsize() == 7)
        assert client.status["fronts"][0]["state"] == "stopping"
        one.reply(accepted)
        for _ in range(7):
            two.reply(two.next())
        assert len(client.fetch_all() or []) == 8
        assert not one.cancelled


def test_a_request_that_all_servers_refuse_waits_for_one(start: Start, pool: ThreadPoolExecutor) -> None:
    one, two = start(), start()
    with client_of(one, two, connect_timeout=1500) as client:
        call = pool.submit(client.encode, ["a"])
        until(lambda: one.held.qsize() + two.held.qsize() == 1)
        first, second = (one, two) if one.held.qsize() else (two, one)
        first.reply_error(first.next(), "draining", "the server is stopping")
        second.reply_error(second.next(), "draining", "the server is stopping")
        until(lambda: not client.status["connected"])
        second.stop()
        second.start()
        second.reply(second.next())
        assert call.result(30).shape == (1, 4)
        second.stop()
        with pytest.raises(ServerUnreachableError, match=f"{address(first)}: stopping\n"):
            client.encode(["b"])


def test_requests_of_a_silent_server_go_to_the_other_one(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_policy, "CONFIG_INTERVAL", 0.2)
    one, two = start(), start(hold=False)
    with client_of(one, two) as client:
        client.timeout = 300
        one.config = None  # it is frozen
        for _ in range(2):  # one of them is the turn of the silent server
            assert client.encode(["a"]).shape == (1, 4)
        assert f"{address(one)} did not reply within 0.3 s; 1 requests go to other servers" in caplog.text
        for _ in range(4):
            client.encode(["b"])
        assert "b" not in texts_of(one)
        until(lambda: len(one.cancelled) == 1)  # the server reads CANCEL when its thread runs
        two.stop()
        until(lambda: client.status["fronts"][1]["state"] == "not connected")
        stream = client.encode_async(iter([["c"]]))  # a call without a limit
        until(lambda: "c" in texts_of(one))
        two.start()
        assert [each.shape for each in stream] == [(1, 4)]
        client.timeout = 30_000
        one.config, one.hold = {**SPACE}, False
        until(lambda: client.encode(["d"]).shape == (1, 4) and "d" in texts_of(one), "it is asked again")


@pytest.mark.parametrize("late", [0.0, 0.1])
def test_a_request_that_no_server_answers_is_a_timeout(
    start: Start, late: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both servers get it, even if the thread of the caller was held up between the start of its wait and sending."""
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late)
    monkeypatch.setattr(front_link, "time", clock)
    one, two = start(), start()
    with client_of(one, two) as client:
        client.timeout = 1500  # long enough for a request to arrive on a busy machine
        with pytest.raises(RequestTimeoutError, match=f"{address(one)}, {address(two)} within"):
            client.encode(["a"])
        until(lambda: texts_of(one) == texts_of(two) == ["a"])
        assert client.pending_request == set()
        until(lambda: len(one.cancelled) == len(two.cancelled) == 1)


@pytest.mark.parametrize(
    ("kind", "error"),
    [("encoding_failed", EncodingFailedError), ("too_large", TooLargeError), ("overloaded", OverloadedError)],
)
def test_errors_of_a_request_are_not_retried(start: Start, kind: str, error: type[Exception]) -> None:
    one, two = start(), start()
    with client_of(one, two) as client:
        for text in ("a", "b"):
            client.encode([text], blocking=False)
        one.reply_error(one.next(), kind, "text 0 is bad")
        two.reply(two.next())
        with pytest.raises(error, match=r"request [23]: the server replied with .* text 0 is bad"):
            client.fetch_all()
        assert len(client.fetch_all() or []) == 1
        assert len(texts_of(one, two)) == 2


# ---------------------------------------------------------------- models


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vector_space": "b2"}, ("the vector space of", "a1", "b2", "{one}", "{two}")),
        ({"task": "classify"}, ("-task of", "embed", "classify", "{one}", "{two}")),
        ({"labels": ["no", "yes"]}, ("the labels of", "['no', 'yes']", "None", "{one}", "{two}")),
        ({"max_seq_len": 99}, ("-max_seq_len of", "99", "25", "{one}", "{two}")),
        ({"show_tokens_to_client": True}, ("-show_tokens_to_client of", "{one}", "{two}")),
        ({"vector_space": None}, ("{two} does not name the vector space",)),
    ],
)
def test_servers_of_other_models_are_refused(start: Start, changes: dict[str, Any], words: tuple[str, ...]) -> None:
    one, two = start(), start(**changes)

    async def connect() -> None:
        async with AsyncBertClient(ip=[address(one), address(two)]):
            pass

    for call in (lambda: client_of(one, two), lambda: asyncio.run(connect())):
        with pytest.raises(OptionError) as error:
            call()
        wanted = [word.format(one=address(one), two=address(two)) for word in words]
        assert not [word for word in wanted if word not in str(error.value)], error.value


def test_a_server_that_returns_with_another_model_is_not_used(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    one, two = start(hold=False), start(hold=False)
    with client_of(one, two, connect_timeout=500) as client:
        one.stop()
        one.config = {**SPACE, "vector_space": "b2"}
        one.received.clear()
        one.start()
        until(lambda: f"{address(one)} is not used: the vector space of" in caplog.text)
        for _ in range(4):
            client.encode(["a"])
        assert not one.received
        assert client.status["fronts"][0]["state"] == "not used"
        two.stop()
        with pytest.raises(ServerUnreachableError, match=r"the vector space of .* b2"):
            client.encode(["a"])
        two.start()
        until(lambda: f"{address(two)} is back" in caplog.text)
        assert client.encode(["a"]).shape == (1, 4)


def test_a_server_that_is_down_at_the_start_is_used_when_it_is_there(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = start(hold=False), start(hold=False)
    two.stop()
    with client_of(one, two) as client:
        assert f"{address(two)} is not connected; the other servers get all requests until it is" in caplog.text
        client.encode(TEXTS, batch_size=5)
        two.start()
        until(lambda: "is back" in caplog.text)
        client.encode(TEXTS, batch_size=5)
        assert two.received


def test_a_server_that_is_starting_gets_texts_when_it_has_a_worker(start: Start) -> None:
    one, two = start(hold=False), start(hold=False, state="starting", num_ready_worker=0)
    with client_of(one, two) as client:
        client.encode(TEXTS, batch_size=5)
        assert not two.received
        assert client.status["fronts"][1]["state"] == "without a worker"
        two.config = SPACE
        until(lambda: client.status["fronts"][1]["state"] == "connected")
        client.encode(TEXTS, batch_size=5)
        assert two.received


def test_requests_of_a_server_without_workers_go_to_the_other_one(
    start: Start, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_group, "_ASK_INTERVAL", 0.1)
    one, two = start(), start()
    with client_of(one, two, timeout=-1) as client:
        call = pool.submit(client.encode, TEXTS, batch_size=10)
        until(lambda: one.held.qsize() == two.held.qsize() == 2)
        one.config = {**SPACE, "num_ready_worker": 0, "state": "degraded"}
        until(lambda: two.held.qsize() == 4)
        assert client.status["fronts"][0]["state"] == "without a worker"
        for _ in range(4):
            two.reply(two.next(), vector_space="a1")
        np.testing.assert_array_equal(call.result(30), vectors(TEXTS))
        until(lambda: len(one.cancelled) == 2)


def test_no_server_is_there() -> None:
    ports = free_ports(4)
    names = [f"127.0.0.1:{port}" for port in ports[:2]]
    with pytest.raises(ServerUnreachableError) as error:
        BertClient(ip=names, connect_timeout=300)
    assert str(error.value).count("port_out") >= 2
    assert not [name for name in names if name not in str(error.value)]


def test_a_client_without_checks_compares_models_too(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    one, two = start(hold=False), start(hold=False, vector_space="b2")
    with client_of(one, two, ignore_all_checks=True) as client:
        until(lambda: "is not used" in caplog.text)
        for _ in range(4):
            client.encode(["a"])
        assert [] in (one.received, two.received)


def test_options_need_all_servers_to_know_them(start: Start) -> None:
    one, two = start(hold=False), start(hold=False, protocol_version=3)
    with client_of(one, two) as client, pytest.raises(OptionError, match="this server has 3"):
        client.encode(["a"], normalize=True)


# ---------------------------------------------------------------- what one server has


def test_what_needs_one_server_is_refused(start: Start) -> None:
    one, two = start(), start()
    both = [address(one), address(two)]
    with client_of(one, two) as client:
        with pytest.raises(OptionError, match=r"listen\(\) needs one server"):
            client.listen()
        with pytest.raises(OptionError, match="several servers has no identity to share"):
            client.identity  # noqa: B018
    with pytest.raises(OptionError, match="identity='me' is for clients that share the results of one server"):
        BertClient(ip=both, identity="me")
    with pytest.raises(OptionError, match="each address has its own ports, but port=7777"):
        BertClient(ip=both, port=7777)
    with pytest.raises(OptionError, match="twice"):
        BertClient(ip=[both[0], both[0]])
    with pytest.raises(OptionError, match="empty list"):
        BertClient(ip=[])
    with pytest.raises(OptionError, match=r"'a b' is not HOST\[:PORT\[:PORT_OUT\]\]"):
        BertClient(ip=["a b", "c"])
    with pytest.raises(OptionError, match="must be a str, but is int"):
        BertClient(ip=[5555])  # type: ignore[list-item]


def test_a_list_of_one_address_is_one_server(start: Start) -> None:
    one = start(hold=False)
    with BertClient(ip=[address(one)], identity="me") as client:
        assert client.encode(["a"]).shape == (1, 4)
        assert (client.ip, client.port, client.port_out) == ("127.0.0.1", one.port, one.port_out)
        assert client.identity == b"me"


def test_the_status_of_all_servers(start: Start) -> None:
    one, two, three = start(hold=False), start(hold=False), start(hold=False)
    three.stop()
    with client_of(one, two, three) as client:
        client.encode(["a"])
        found = client.server_status["fronts"]
        assert list(found) == [address(one), address(two), address(three)]
        assert ["statistic" in found[each] if found[each] else None for each in found] == [True, True, None]
        assert client.server_config["vector_space"] == client.vector_space == "a1"
        assert f"{address(one)}, {address(two)}" in repr(client)
        with pytest.raises(TaskError):
            client.classify(["a"])


def test_close_cancels_on_all_servers(start: Start, pool: ThreadPoolExecutor) -> None:
    one, two = start(), start()
    client = client_of(one, two)
    call = pool.submit(client.encode, TEXTS, batch_size=20)
    until(lambda: one.held.qsize() == two.held.qsize() == 1)
    client.close()
    with pytest.raises(ClientClosedError):
        call.result(30)
    until(lambda: len(one.cancelled) == len(two.cancelled) == 1)
    with pytest.raises(ClientClosedError):
        client.encode(["a"])


def test_a_call_that_times_out_cancels_on_all_servers(start: Start) -> None:
    one, two = start(), start()
    with client_of(one, two) as client:
        client.encode(["a"], blocking=False)
        client.encode(["b"], blocking=False)
        until(lambda: one.held.qsize() == two.held.qsize() == 1)
        client._connection.forget(*client.pending_request)
        until(lambda: len(one.cancelled) == len(two.cancelled) == 1)


def test_a_client_without_references_closes_itself(start: Start) -> None:
    one, two = start(hold=False), start(hold=False)
    before = set(threading.enumerate())
    client = client_of(one, two)
    assert client.encode(["a"]).shape == (1, 4)
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None
    until(lambda: set(threading.enumerate()) <= before)


def test_every_client_shares_and_fails_over(start: Start) -> None:
    one, two = start(), start()

    async def call() -> None:
        async with AsyncBertClient(ip=[address(one), address(two)], timeout=30_000) as client:
            task = asyncio.create_task(client.encode(TEXTS, batch_size=10))
            while not one.held.qsize() == two.held.qsize() == 2:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(one.stop)
            for _ in range(4):
                two.reply(await asyncio.to_thread(two.next), vector_space="a1")
            np.testing.assert_array_equal(await task, vectors(TEXTS))
            two.hold = False
            rows = [each.embedding async for each in client.encode_async([["a"], ["bb"]])]
            assert sorted(row[0, 0] for row in rows) == [1, 2]
            status = (await client.server_status())["fronts"]
            assert status[address(one)] is None
            assert "statistic" in status[address(two)]
            with pytest.raises(OptionError, match="needs one server"):
                client.listen()

    asyncio.run(call())
    one.start()
    one.hold = False
    with ConcurrentBertClient(max_concurrency=2, ip=[address(one), address(two)], timeout=30_000) as client:
        assert client.encode(TEXTS, batch_size=10).shape == (40, 4)


def test_threads_share_a_client_while_servers_come_and_go(start: Start) -> None:
    one, two = start(hold=False), start(hold=False)
    with client_of(one, two) as client, ThreadPoolExecutor(4) as threads:

        def call(number: int) -> None:
            for _ in range(60):
                texts = ["x" * (1 + number % 7)] * 3
                np.testing.assert_array_equal(client.encode(texts, batch_size=1), vectors(texts))

        calls = [threads.submit(call, number) for number in range(4)]
        for server in (one, two, one, two):
            server.stop()
            server.start()
            until(lambda: all(each["state"] == "connected" for each in client.status["fronts"]))
        for each in calls:
            each.result(60)
        assert client.pending_request == set()
        assert not [each for each in client.status["fronts"] if each["num_pending_request"]]
