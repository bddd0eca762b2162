"""Results of `encode(blocking=False)` and `encode_async` of a client, against a scripted server."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bert_serving.client import (
    BertClient,
    InputValueError,
    InvalidRequestError,
    OverloadedError,
    RequestTimeoutError,
)
from fake_server import CONFIG, DEADLINE, FakeServer, run_fake_server, until

ORIGINAL = {"server_version": "1.10.0", "max_seq_len": 3, "show_tokens_to_client": True}


pytestmark = pytest.mark.usefixtures("no_unexpected_warnings")


# ---- without waiting ------------------------------------------------------------------------------------------------


def test_fetch_all_keeps_the_order_of_sending() -> None:
    with run_fake_server(hold=True) as fake_server, BertClient(**fake_server.ports) as bc:
        for text in ("a", "bb", "ccc"):
            bc.encode([text], blocking=False)
        for request in reversed([fake_server.next() for _ in range(3)]):
            fake_server.reply(request)
        assert [array[0, 0] for array in bc.fetch_all()] == [1, 2, 3]
        assert bc.fetch_all() is None
        assert list(bc.fetch()) == []


def test_fetch_returns_results_in_order_of_arrival() -> None:
    with run_fake_server(hold=True) as fake_server, BertClient(**fake_server.ports) as bc:
        for text in ("a", "bb", "ccc"):
            bc.encode([text], blocking=False)
        ids = sorted(bc.pending_request)
        for request in reversed([fake_server.next() for _ in range(3)]):
            fake_server.reply(request)
        assert [(response.id, response.embedding[0, 0]) for response in bc.fetch()] == list(
            zip(ids[::-1], (3, 2, 1), strict=True)
        )
        for text in ("a", "bb", "ccc"):
            bc.encode([text], blocking=False)
        for request in reversed([fake_server.next() for _ in range(3)]):
            fake_server.reply(request)
        assert bc.fetch_all(sort=False, concat=True)[:, 0].tolist() == [3, 2, 1]


def test_blocking_and_not_blocking_mixed(bc: BertClient) -> None:
    bc.encode(["a"], blocking=False)
    assert bc.encode(["bb"])[0, 0] == 2
    bc.encode(["ccc"], blocking=False)
    assert bc.server_config == CONFIG
    until(lambda: len(bc.pending_response) == 2)
    assert bc.pending_request == set(bc.pending_response)
    assert [array[0, 0] for array in bc.fetch_all()] == [1, 3]
    assert bc.pending_request == set()


def test_fetch_timeout() -> None:
    with run_fake_server(hold=True) as fake_server, BertClient(**fake_server.ports) as bc:
        bc.encode(["a"], blocking=False)
        bc.encode(["bb"], blocking=False)
        one, two = fake_server.next(), fake_server.next()
        fake_server.reply(one)
        until(lambda: bc.pending_response)
        with pytest.raises(RequestTimeoutError):
            bc.fetch_all(timeout=20)
        fake_server.reply(two)  # earlier results are kept
        assert [array[0, 0] for array in bc.fetch_all(timeout=60_000)] == [1, 2]


def test_fetch_waits_for_delay(bc: BertClient) -> None:
    bc.encode(["a"], blocking=False)
    started = time.monotonic()
    assert len(list(bc.fetch(delay=0.05))) == 1
    assert time.monotonic() - started >= 0.05


@pytest.mark.parametrize("all_at_once", [False, True])
def test_one_failed_request_does_not_hide_the_others(all_at_once: bool) -> None:
    with run_fake_server(hold=True) as fake_server, BertClient(**fake_server.ports) as bc:
        for text in ("a", "bb", "ccc"):
            bc.encode([text], blocking=False)
        number = sorted(bc.pending_request)[1]
        one, two, three = (fake_server.next() for _ in range(3))
        fake_server.reply(one)
        fake_server.reply_error(two, "invalid_request", "no such word, sorry")
        fake_server.reply(three)
        results = bc.fetch()
        if not all_at_once:
            assert next(results).embedding[0, 0] == 1
        with pytest.raises(InvalidRequestError) as caught:
            bc.fetch_all() if all_at_once else next(results)
        assert (caught.value.type, caught.value.message) == ("invalid_request", "no such word, sorry")
        assert caught.value.request_id == number
        if all_at_once:
            assert [array[0, 0] for array in bc.fetch_all()] == [1, 3]
        else:
            assert [response.embedding[0, 0] for response in results] == [3]


def test_blocking_call_raises_server_error() -> None:
    with ThreadPoolExecutor() as pool, run_fake_server(hold=True) as fake_server, BertClient(**fake_server.ports) as bc:
        result = pool.submit(bc.encode, ["a"] * 10, batch_size=5)
        fake_server.reply_error(fake_server.next(), "overloaded", "1,000 requests wait")
        with pytest.raises(OverloadedError, match="1,000 requests wait"):
            result.result(DEADLINE)
        assert bc.pending_request == set()


def test_fetching_while_another_thread_sends(bc: BertClient) -> None:
    total = 300

    def send() -> None:
        for _ in range(total):
            bc.encode(["x"], blocking=False)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    fetched = 0
    deadline = time.monotonic() + 60
    while fetched < total:
        assert time.monotonic() < deadline
        fetched += sum(1 for _ in bc.fetch())
    sender.join(DEADLINE)
    assert bc.pending_request == set()


def test_each_result_is_fetched_by_one_thread(bc: BertClient) -> None:
    for _ in range(200):
        bc.encode(["x"], blocking=False)
    numbers = bc.pending_request
    with ThreadPoolExecutor(4) as pool:
        fetched = [response.id for part in pool.map(lambda _: list(bc.fetch()), range(4)) for response in part]
    assert sorted(fetched) == sorted(numbers)


# ---- encode_async ---------------------------------------------------------------------------------------------------


def test_encode_async_of_an_endless_generator(bc: BertClient) -> None:
    ids = [response.id for response in bc.encode_async(itertools.repeat(["a", "bb"]), max_num_batch=200)]
    assert sorted(ids) == list(range(2, 202))


def test_response_unpacks_and_has_attributes(bc: BertClient) -> None:
    for response in bc.encode_async([["a", "bb"]]):
        number, embedding, tokens = response
        assert response.shape == embedding.shape == (2, 4)
        assert (number, tokens) == (2, "")


def test_encode_async_waits_for_a_slow_generator(bc: BertClient) -> None:
    go = threading.Event()

    def slow() -> Iterator[list[str]]:
        assert go.wait(DEADLINE)
        yield ["a"]
        yield ["bb"]

    results = bc.encode_async(slow())
    with ThreadPoolExecutor() as pool:
        first = pool.submit(next, results)
        assert not first.done()
        go.set()
        assert first.result(DEADLINE).embedding[0, 0] == 1
        assert len(list(results)) == 1


def test_slow_generator_does_not_cause_unreachable_error(fake_server: FakeServer) -> None:
    with ThreadPoolExecutor() as pool, BertClient(**fake_server.ports) as bc:
        bc.connect_timeout = 100  # set after the connection, which may take longer
        go = threading.Event()

        def slow() -> Iterator[list[str]]:
            assert go.wait(DEADLINE)
            yield ["a"]

        results = pool.submit(list, bc.encode_async(slow()))
        fake_server.stop()
        until(lambda: not bc.status["connected"])
        assert not results.done()
        fake_server.start()
        until(lambda: bc.status["connected"])
        go.set()
        assert len(results.result(DEADLINE)) == 1


def test_encode_async_limits_requests_in_flight(fake_server: FakeServer) -> None:
    fake_server.hold = True
    pulled = []

    def endless() -> Iterator[list[str]]:
        for number in itertools.count():
            pulled.append(number)
            yield ["x"]

    with BertClient(**fake_server.ports) as bc:
        results = bc.encode_async(endless())
        until(lambda: len(fake_server.received) == 64)
        assert len(pulled) == 64
        for _ in range(10):
            fake_server.reply(fake_server.next())
        until(lambda: len(bc.pending_response) == 10)
        assert len(pulled) == 64, "results that were not consumed count as well"
        next(results)
        until(lambda: len(fake_server.received) == 65)
        results.close()
        until(lambda: bc.pending_request == set())
        assert list(results) == []


def test_generator_exception_is_raised_after_its_results(bc: BertClient) -> None:
    def breaking() -> Iterator[list[str]]:
        yield ["a"]
        raise LookupError("no more corpus")

    results = bc.encode_async(breaking())
    assert next(results).embedding[0, 0] == 1
    with pytest.raises(LookupError, match="no more corpus"):
        next(results)


def test_invalid_batch_raises_in_the_consumer(bc: BertClient) -> None:
    with pytest.raises(InputValueError, match="texts\\[1\\]"):
        list(bc.encode_async([["a", ""]]))


def test_encode_async_needs_an_iterable(bc: BertClient) -> None:
    with pytest.raises(TypeError):
        bc.encode_async(3)  # type: ignore[arg-type]


def test_results_of_encode_async_can_be_fetched_instead(bc: BertClient) -> None:
    bc.encode_async([["a"], ["bb"], ["ccc"]])
    until(lambda: len(bc.pending_response) == 3)
    assert bc.fetch_all(concat=True)[:, 0].tolist() == [1, 2, 3]


def test_concurrent_streams_are_separate(bc: BertClient) -> None:
    def lengths(length: int) -> set[float]:
        stream = bc.encode_async(itertools.repeat(["x" * length]), max_num_batch=100)
        return {response.embedding[0, 0] for response in stream}

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(lengths, (1, 2, 3))) == [{1}, {2}, {3}]


def test_breaking_the_loop_stops_the_generator(bc: BertClient) -> None:
    def feeders() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "bert-client-feed"}

    before = feeders()
    for _ in bc.encode_async(itertools.repeat(["x"])):
        break
    until(lambda: not feeders() - before)
    until(lambda: bc.pending_request == set())
